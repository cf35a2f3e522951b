"""Put a running engine behind a proxy for a while: latency, jitter and resets for its clients.

The engine is stopped, started on a free port by the command that it ran by, and the proxy listens
where it did. So clients need no other address, and without this fault no proxy is on their way. At
both ends the engine is away for about a second, as in a failover.
"""

import asyncio
import socket
from asyncio.subprocess import Process
from collections.abc import Callable

from infra.local.engines import environment, free_port
from infra.local.supervisor import Supervisor
from services.platform.runtime.tcp_proxy import BadLink, TcpProxy
from services.platform.settings import Settings

_START_S, _STOP_S = 30.0, 20.0
# By engine: the setting of its port, and its arguments with another port. Redis overwrites its own.
_MOVED: dict[str, tuple[str, Callable[[list[str], int], list[str]]]] = {
    "nats": ("nats_port", lambda arguments, port: [*arguments, "-p", str(port)]),
    "redis": ("redis_port", lambda _, port: ["redis.conf", "--port", str(port)]),
    "seaweedfs": (
        "s3_port",
        lambda arguments, port: [
            f"-s3.port={port}" if word.startswith("-s3.port=") else word for word in arguments
        ],
    ),
}
ENGINES = tuple(_MOVED)


async def behind_proxy(
    config: Settings, supervisor: Supervisor, name: str, link: BadLink, seconds: float
) -> TcpProxy:
    """Make an engine's connections bad for some seconds, and bring it back.

    Returns:
        The proxy, with what it counted.

    Raises:
        KeyError: it is no engine, or does not run.
        RuntimeError: it does not start on another port.
    """
    import psutil

    if name not in _MOVED:
        raise KeyError(f"{name!r} can't be put behind a proxy: choose from {', '.join(ENGINES)}")
    pids = supervisor.pids()
    if name not in pids:
        raise KeyError(f"{name} does not run: `whiteboard status`")
    setting, moved = _MOVED[name]
    process = psutil.Process(pids[name])
    program, arguments = process.exe(), process.cmdline()[1:]
    port, usual = free_port(), int(getattr(config, setting))
    proxy = TcpProxy(link, config.host, port)
    await asyncio.to_thread(supervisor.take_away, name)
    try:
        with (supervisor.logs / f"{name}.log").open("ab") as log:
            engine = await asyncio.create_subprocess_exec(
                program, *moved(arguments, port), cwd=config.home / "conf", env=environment(),
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            await _listens(name, engine, config.host, port)
            server = await proxy.serve(config.host, usual)
            try:
                await asyncio.sleep(seconds)
            finally:
                await proxy.close(server)
        finally:
            await _stop(engine)
    finally:
        await asyncio.to_thread(supervisor.bring_back, name)
    return proxy


async def _stop(engine: Process, timeout_s: float = _STOP_S) -> None:
    """Stop an engine, and kill it if it does not end: two on one folder would damage its data."""
    if engine.returncode is None:
        engine.terminate()
    try:
        async with asyncio.timeout(timeout_s):
            await engine.wait()
    except TimeoutError:
        engine.kill()
        await engine.wait()


async def _listens(name: str, engine: Process, host: str, port: int) -> None:
    """Wait until an engine answers on a port."""
    end = asyncio.get_running_loop().time() + _START_S
    while engine.returncode is None and asyncio.get_running_loop().time() < end:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if await asyncio.to_thread(probe.connect_ex, (host, port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{name} did not start on port {port}: see its log, `whiteboard status`")
