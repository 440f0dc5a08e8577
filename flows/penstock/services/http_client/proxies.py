"""Proxies of the environment: HTTP_PROXY, HTTPS_PROXY (or ALL_PROXY) and NO_PROXY, in upper or lower case."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from penstock.services.http_client.origin import UNIX, Origin


def proxy_for(origin: Origin, environment: Mapping[str, str]) -> Origin | None:
    """Return the proxy for an origin, or None for a direct connection.

    This machine (localhost, 127.0.0.0/8, ::1) and Unix sockets never have a proxy. In a CGI program (REQUEST_METHOD is
    set) HTTP_PROXY is ignored: there it is the header Proxy of a request. Raises `ValueError` for an invalid proxy.
    """
    if origin.scheme == UNIX or origin.is_loopback or is_excluded(origin, _variable(environment, "no_proxy")):
        return None
    names = [f"{origin.scheme}_proxy", "all_proxy"]
    if origin.scheme == "http" and "REQUEST_METHOD" in environment:
        names = ["all_proxy"]
    for name in names:
        if text := _variable(environment, name):
            return _parse(name, text)
    return None


def is_excluded(origin: Origin, no_proxy: str) -> bool:
    """Return whether NO_PROXY names a host: by `*`, its domain, address or network, with or without a port."""
    for entry in no_proxy.lower().replace(",", " ").split():
        name, colon, port = entry.rpartition(":")
        if not colon or not port.isdecimal() or (":" in name.strip("[]") and not name.endswith("]")):
            name, port = entry, ""
        if port and int(port) != origin.port:
            continue
        if name == "*" or _matches(origin.host.lower().removesuffix("."), name.strip("[]")):
            return True
    return False


def _matches(host: str, name: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        domain = name.removeprefix("*").lstrip(".")
        return bool(domain) and (host == domain or host.endswith("." + domain))
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _parse(name: str, text: str) -> Origin:
    try:
        proxy = Origin.parse((text if "://" in text else f"http://{text}").rstrip("/"))
    except ValueError:
        raise ValueError(f"{name.upper()} is not a valid URL of a proxy") from None
    if proxy.scheme != "http":
        raise ValueError(f"{name.upper()}: expected a proxy with an http:// URL, not {proxy.scheme}://")
    return proxy
