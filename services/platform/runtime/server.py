"""Run an HTTP app: uvicorn's arguments, the same for services and for what benchmarks start.

`python -m services.platform.runtime.server MODULE:FACTORY --port PORT` runs any app.
"""

import argparse
import resource
from typing import Any

from services.platform.settings import Settings

# Idle connections stay open for longer than common clients keep theirs (Go 90 s; AWS's load
# balancer and nginx 60 s): the client closes them, and no request meets one that closes.
KEEP_ALIVE_S = 120
# Libraries, engines and logs of a process.
_OWN_FILES = 500


def may_open(files: int) -> None:
    """Let this process have as many files open, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve_app(factory: str, host: str, port: int, log_level: str = "warning") -> None:
    """Serve the app that "module:function" makes, until the process gets SIGTERM or SIGINT."""
    # Imported here because workers import this module too, and need no FastAPI.
    import uvicorn

    uvicorn.run(factory, factory=True, host=host, port=port, **_options(log_level))


def serve_instance(config: Settings, service: str, factory: str, port: int) -> None:
    """Serve an app as one of several processes on a port. See `serve_shared`."""
    from services.platform.runtime.sharing.server import serve_shared

    serve_shared(config, service, factory, port, _options("warning"))


def _options(log_level: str) -> dict[str, Any]:
    """Uvicorn's arguments, and as many open files as they need."""
    from services.platform.runtime.bounded_http import MAX_CONNECTIONS, BoundedProtocol

    may_open(MAX_CONNECTIONS + _OWN_FILES)
    return {
        "loop": "uvloop",
        "http": BoundedProtocol,
        "access_log": False,
        "log_level": log_level,
        "timeout_keep_alive": KEEP_ALIVE_S,
        # No proxy stands in front, so X-Forwarded-For is ignored.
        "proxy_headers": False,
        "server_header": False,
    }


def main() -> None:
    """Serve one app from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("factory", help="module:function")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-level", default="warning")
    options = parser.parse_args()
    serve_app(options.factory, options.host, options.port, options.log_level)


if __name__ == "__main__":
    main()
