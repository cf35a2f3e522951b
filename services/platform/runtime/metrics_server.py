"""A worker's Prometheus page. prometheus_client's own server refuses HEAD, which monitors send."""

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_metrics = make_wsgi_app()


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *args: Any) -> None:
        pass


def serve_metrics(host: str, port: int) -> int:
    """Serve the metrics in a thread until the process ends. Returns the port, chosen if 0.

    OSError if the port is taken.
    """
    server = make_server(host, port, _app, ThreadingWSGIServer, _SilentHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def _app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """HEAD has the headers of GET, without its body (RFC 9110, section 9.3.2)."""
    if environ["REQUEST_METHOD"] != "HEAD":
        return _metrics(environ, start_response)
    started: list[tuple[str, list[tuple[str, str]]]] = []
    body = _metrics({**environ, "REQUEST_METHOD": "GET"}, lambda *head: started.append(head))
    [(status, headers)] = started
    start_response(status, [*headers, ("Content-Length", str(sum(map(len, body))))])
    return []
