"""Start any process of any design: `python -m services.platform.run fraud feature-worker`.

What follows the process's name goes to the process: `fraud feature-worker --worker 2`. Processes
that serve all designs belong to `shared`: `shared scheduler COMMAND` retrains by running COMMAND.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from services.platform.design import SHARED_PROCESSES, HttpApp, Process, named, registered
from services.platform.runtime.server import serve_app, serve_instance
from services.platform.secret_files import make_private
from services.platform.settings import Settings, keep_home, settings, use_account

SHARED = "shared"


def find(config: Settings, design: str, name: str) -> HttpApp | Process:
    """A process of a design, or a shared one. KeyError lists those there are."""
    if design == SHARED:
        return named(SHARED_PROCESSES, name)
    known = {one.name: one for one in registered(config)}
    if design not in known:
        raise KeyError(f"no design {design!r}: choose from {', '.join([*known, SHARED])}")
    return known[design].process(name)


def start(
    config: Settings, process: HttpApp | Process, arguments: Sequence[str], port: int
) -> None:
    """Run a process until it ends or the process gets SIGTERM or SIGINT.

    Args:
        arguments: What its command line has besides.
        port: Where it listens, or shows its metrics.

    Raises:
        ValueError: it takes no arguments.
    """
    if isinstance(process, HttpApp):
        _no(arguments, process)
        if config.instance:
            serve_instance(config, process.name, process.factory, port)
        else:
            serve_app(process.factory, config.host, port)
        return
    from services.platform.runtime.worker import run_worker

    module = import_module(process.module)
    parse = getattr(module, "parse_arguments", None)
    if parse is None:
        _no(arguments, process)
    options = parse(config, arguments) if parse else {}
    run_worker(config, port, partial(module.main, config, **options))


def enter_empty_folder(config: Settings) -> None:
    """Work where no file is: a relative path that a model or a message names leads nowhere.

    Shared processes run commands, whose paths are relative to where they were started.
    """
    keep_home(config)
    if not config.home.exists():
        return
    folder = config.home / "empty"
    try:
        make_private(folder)
    except OSError:
        folder = config.home  # a container's, which nothing can write to
    os.chdir(folder)


def _no(arguments: Sequence[str], process: HttpApp | Process) -> None:
    if arguments:
        raise ValueError(f"{process.name} takes no arguments: {' '.join(arguments)}")


def main() -> None:
    """Start a process from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m services.platform.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, help="where it listens or shows metrics")
    parser.add_argument("design", help=f"a design's name, or {SHARED}")
    parser.add_argument("process")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the process's own")
    options = parser.parse_args()
    config = settings()
    try:
        process = find(config, options.design, options.process)
        use_account(process.name)
        config = settings()
        if options.design != SHARED:
            enter_empty_folder(config)
        start(config, process, options.arguments, options.port or process.port(config))
    except (KeyError, ValueError) as error:
        parser.error(str(error.args[0]))


if __name__ == "__main__":
    main()
