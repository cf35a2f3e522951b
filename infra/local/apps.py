"""Web services that a measurement starts for itself: on free ports, ended with it."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.local.engines import environment, free_port
from services.platform.settings import Settings

_READY_S = 90.0
_NOWHERE = "nats://127.0.0.1:9"


@contextmanager
def serving(apps: Mapping[str, tuple[str, Mapping[str, str]]]) -> Iterator[dict[str, str]]:
    """Run some apps, each one process, all on the same server settings.

    Args:
        apps: By name, "module:factory" and what its environment changes.

    Yields:
        By name, the base URL.

    Raises:
        RuntimeError: one does not answer.
    """
    with ExitStack() as stack:
        urls = {name: stack.enter_context(_one(*app)) for name, app in apps.items()}
        for name, url in urls.items():
            _wait(name, url)
        yield urls


def same_engines(config: Settings) -> dict[str, str]:
    """Environment variables that point an app at the engines of an installation."""
    return {
        "WHITEBOARD_NATS_URL": config.nats,
        "WHITEBOARD_REDIS_URL": config.redis,
        "WHITEBOARD_S3_ENDPOINT": config.s3,
        # The store's URL has no credentials, and a home of its own has no such password.
        "WHITEBOARD_USER": config.user,
        "WHITEBOARD_PASSWORD": config.plain_password,
        "WHITEBOARD_VERIFY_KEY": config.plain_verify_key,
        "WHITEBOARD_LABEL_TOKEN": config.plain_label_token,
        "WHITEBOARD_CLIENT_TOKEN": config.plain_client_token,
    }


@contextmanager
def serving_files(
    factory: str, config: Settings, files: Mapping[str, bytes], heard: bool
) -> Iterator[dict[str, str]]:
    """Run one app for each model file, beside an installation and on its engines.

    Args:
        factory: "module:factory".
        config: The installation.
        files: By name, an ONNX file.
        heard: Whether decisions are published on NATS.

    Yields:
        By name, the base URL. See `serving`.
    """
    with TemporaryDirectory() as folder:
        apps = {}
        for name, data in files.items():
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(data)
            changed = {
                "WHITEBOARD_MODEL_FILE": str(path),
                "WHITEBOARD_HOME": str(path.with_suffix("")),
            }
            silent = {} if heard else {"WHITEBOARD_NATS_URL": _NOWHERE}
            apps[name] = (factory, {**same_engines(config), **changed, **silent})
        with serving(apps) as urls:
            yield urls


@contextmanager
def _one(app: str, changed: Mapping[str, str]) -> Iterator[str]:
    port = free_port()
    command = (
        sys.executable, "-m", "services.platform.runtime.server", app,
        "--port", str(port), "--log-level", "error",
    )  # fmt: skip
    quiet = subprocess.DEVNULL
    environ = {**environment(), "OMP_NUM_THREADS": "1", "WHITEBOARD_HOST": "127.0.0.1", **changed}
    process = subprocess.Popen(command, env=environ, stdout=quiet, stderr=quiet)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _wait(name: str, url: str) -> None:
    end = time.monotonic() + _READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/openapi.json", timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise RuntimeError(
                    f"{name} did not start: is the stack up? `whiteboard up`"
                ) from None
            time.sleep(0.1)
