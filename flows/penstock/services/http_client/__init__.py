"""An HTTP/1.1 client for services: many short requests to few hosts, without a task or a stream for each of them."""

from penstock.services.http_client.client import HttpClient, RequestHead
from penstock.services.http_client.exchange import ExchangeFailed, Response
from penstock.services.http_client.origin import Origin, encode_headers, end_of
from penstock.services.http_client.pool import ConnectionStatistics
from penstock.services.http_client.reasons import connection_error_reason
from penstock.services.http_client.request import Request
from penstock.services.http_client.responses import (
    batch_item_error,
    content_of,
    is_compressed,
    parse_retry_after,
    uncompressed_content_of,
)
from penstock.services.http_client.tls import Tls

__all__ = [
    "ConnectionStatistics",
    "ExchangeFailed",
    "HttpClient",
    "Origin",
    "Request",
    "RequestHead",
    "Response",
    "Tls",
    "batch_item_error",
    "connection_error_reason",
    "content_of",
    "encode_headers",
    "end_of",
    "is_compressed",
    "parse_retry_after",
    "uncompressed_content_of",
]
