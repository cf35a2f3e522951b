"""A worker's Prometheus page. prometheus_client's own server refuses HEAD, which monitors send."""

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_MAX_CONNECTIONS = 32
_metrics = make_wsgi_app()


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests, and waits for none for longer than `timeout`, seconds."""

    timeout = 10

    def log_message(self, *args: Any) -> None:
        pass


class _BoundedServer(ThreadingWSGIServer):
    """Refuses connections beyond a few: each has a thread of its own."""

    _free = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close the connection."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def serve_metrics(host: str, port: int) -> int:
    """Serve the metrics in a thread until the process ends. Returns the port, chosen if 0.

    OSError if the port is taken.
    """
    server = make_server(host, port, _app, _BoundedServer, _SilentHandler)
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
