#!/usr/bin/env python3
"""Exit with 0 if the Penstock in this container is healthy: `healthcheck ready`, or `healthcheck live`.

It asks the port that the service has according to its variables, and accepts any certificate: it asks this container.
"""

import os
import ssl
import sys
import urllib.request

TIMEOUT = 4
"""Seconds for the response."""

scheme = "https" if os.environ.get("PENSTOCK_TLS_CERT") else "http"
url = f"{scheme}://127.0.0.1:{os.environ.get('PENSTOCK_PORT', '8080')}/health/{sys.argv[1]}"
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)).open(
        url, timeout=TIMEOUT
    )
except OSError as error:  # an HTTPError of the status 503, too
    sys.exit(f"{url}: {error}")
