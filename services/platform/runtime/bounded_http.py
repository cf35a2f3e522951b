"""uvicorn's HTTP protocol with bounds on what a request costs before an application sees it.

uvicorn bounds neither the size of headers nor the time that they take: 64 MB of them stalled all
other requests for 1.8 s, and thousands of half-open requests stayed for good. Bodies are bounded
where they are read (`DirectApp`).
"""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# As nginx and Apache have it: 32 kB, and 100 headers.
MAX_HEAD_BYTES = 32_768
MAX_HEADERS = 100
# From the first byte of a request, or the connection's start, to the end of its headers; and from
# there to the end of its body: 8 MB from a station at 1 Mbit/s.
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 90.0
# Of one process, which may have so many files open, and some more, where the system lets it.
MAX_CONNECTIONS = 4_000
_HEAD, _BODY = "head", "body"
_HEAD_END = b"\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """A connection: 431 for a large head, 408 for a slow request, 503 for too many connections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take uvicorn's arguments."""
        super().__init__(*args, **options)
        self._in_body = False
        self._complete = 0
        self._head_bytes = 0
        self._alarm: TimerHandle | None = None
        self._alarm_of = ""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse("503 Service Unavailable", "too many connections")
        else:
            self._set_alarm(_HEAD, HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._clear_alarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, of several, or of none."""
        if self.transport.is_closing():
            return
        if len(data) > MAX_HEAD_BYTES and self._begins_with_large_head(data):
            self._take_head(len(data))
            return
        before = self._complete
        super().data_received(data)
        if self._in_body:
            self._head_bytes = 0
            self._set_alarm(_BODY, BODY_TIMEOUT_S)
        elif self._complete > before:
            self._head_bytes = 0
            if self._alarm is not None:
                self._clear_alarm()
        else:
            self._take_head(len(data))

    def on_headers_complete(self) -> None:
        """The body comes next; an error here is answered with 400."""
        if len(self.headers) > MAX_HEADERS:
            raise ValueError("too many headers")
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._in_body = False
        self._complete += 1
        super().on_message_complete()

    def _begins_with_large_head(self, data: bytes) -> bool:
        # A head whose end was split between two reads has begun in the first.
        is_first = not (self._in_body or self._head_bytes)
        return is_first and _HEAD_END not in data[:MAX_HEAD_BYTES]

    def _take_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse("431 Request Header Fields Too Large", "the headers are too large")
        else:
            self._set_alarm(_HEAD, HEAD_TIMEOUT_S)

    def _set_alarm(self, part: str, seconds: float) -> None:
        """Close the connection unless this part of a request ends in time."""
        if self._alarm_of == part:
            return
        self._clear_alarm()
        self._alarm_of = part
        self._alarm = self.loop.call_later(
            seconds, self._refuse, "408 Request Timeout", "the request did not end in time"
        )

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._alarm_of = None, ""

    def _refuse(self, status: str, reason: str) -> None:
        if self.transport.is_closing():
            return
        # Once a response has begun, its status is sent: the connection just closes.
        if self.cycle is None or self.cycle.response_complete:
            body = f'{{"error":"{reason}"}}'
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
            rest = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
            self.transport.write((head + rest).encode())
        self.transport.close()
