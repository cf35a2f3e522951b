"""What `up` waits for."""

import socketserver
import threading

import hiredis

from services.cli.stack import _wait_for_redis
from services.platform.settings import Settings


class Loading(socketserver.BaseRequestHandler):
    """A Redis that still loads its file: it refuses the first pings, as the real one does."""

    def handle(self):
        reader = hiredis.Reader()
        while data := self.request.recv(65_536):
            reader.feed(data)
            while (command := reader.gets()) is not False:
                self.request.sendall(self.answer(command[0].upper()))

    def answer(self, name):
        if name != b"PING":
            return b"+OK\r\n"
        self.server.pings += 1
        loading = b"-LOADING Redis is loading the dataset in memory\r\n"
        return loading if self.server.pings < 4 else b"+PONG\r\n"


def test_a_redis_that_loads_its_file_is_waited_for():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Loading) as server:
        server.daemon_threads, server.pings = True, 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _wait_for_redis(Settings(redis_port=server.server_address[1], password="x"))
        server.shutdown()
        assert server.pings == 4
