"""How a picture looks: its colours, light and dark, and its letters."""

from __future__ import annotations

from penstock.files.pictures.cards import BOLD, SIZES, SPACING

_LIGHT = {
    "ground": "#ffffff",
    "panel": "#f6f8fb",
    "rim": "#dbe2ea",
    "card": "#ffffff",
    "edge": "#cbd5e1",
    "ink": "#0f172a",
    "soft": "#5b677a",
    "line": "#7d8ba0",
    "call": "#7c6fb0",
    "live": "#0f766e",
    "red": "#b4474f",
    "blush": "#fdf5f5",
    "source": "#2563a8",
    "step": "#475569",
    "branch": "#92610a",
    "service": "#6d5bb0",
    "outlet": "#0f766e",
    "sink": "#2563a8",
}
_DARK = {
    "ground": "#0e141d",
    "panel": "#141c28",
    "rim": "#263143",
    "card": "#1b2533",
    "edge": "#36445a",
    "ink": "#e8edf4",
    "soft": "#9aa8bb",
    "line": "#74849b",
    "call": "#9c8fd6",
    "live": "#4fc3b5",
    "red": "#e0858b",
    "blush": "#2a1d24",
    "source": "#7fb2ec",
    "step": "#a9b6c8",
    "branch": "#e0b565",
    "service": "#b3a6ea",
    "outlet": "#4fc3b5",
    "sink": "#7fb2ec",
}
_KINDS = ("source", "step", "branch", "service", "outlet", "sink")

_RULES = """\
.ps text{font-family:Inter,ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;\
fill:var(--ink);font-variant-numeric:tabular-nums}
.ps .ground{fill:var(--ground)}
.ps .panel{fill:var(--panel);stroke:var(--rim)}
.ps .card{fill:var(--card);stroke:var(--edge)}
.ps .service .card{stroke:var(--call);stroke-dasharray:4 3;stroke-opacity:.65}
.ps .branch .card{fill:var(--panel);stroke:var(--branch);stroke-opacity:.45}
.ps .store .card{fill:var(--blush);stroke:var(--red)}
.ps .wire{fill:none;stroke-width:1.6}
.ps .wire.flow{stroke:var(--line)}
.ps .wire.call{stroke:var(--call);stroke-dasharray:4 3}
.ps .wire.failure{stroke:var(--red)}
.ps .wire.filtered{stroke:var(--edge)}
.ps .tip.flow{fill:var(--line)}
.ps .tip.call{fill:var(--call)}
.ps .tip.failure{fill:var(--red)}
.ps .ring{fill:var(--card);stroke-width:1.6;stroke:var(--line)}
.ps .ring.flow{fill:var(--sink);stroke:var(--sink)}
.ps .ring.filtered{stroke:var(--edge)}
.ps .fact,.ps .quiet,.ps .edge{fill:var(--soft)}
.ps .live{fill:var(--live)}
.ps .failed,.ps .red{fill:var(--red)}
.ps .store .caption{fill:var(--red)}"""


def style() -> str:
    """The style sheet."""
    looks = (
        f".ps .{look}{{font-size:{size}px{';font-weight:600' if look in BOLD else ''}}}" for look, size in SIZES.items()
    )
    kinds = (f".ps .{kind} .caption{{fill:var(--{kind})}}" for kind in _KINDS)
    return "\n".join(
        [
            f".ps{{{_variables(_LIGHT)};color-scheme:light dark}}",
            f"@media (prefers-color-scheme:dark){{.ps{{{_variables(_DARK)}}}}}",
            _RULES,
            *looks,
            *kinds,
            f".ps .caption{{letter-spacing:{SPACING}px}}",
        ]
    )


def _variables(colours: dict[str, str]) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in colours.items())
