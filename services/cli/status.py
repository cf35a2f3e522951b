"""`whiteboard status`."""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from rich.markup import escape

from infra.local.engines import redis_server
from infra.local.supervisor import Supervisor
from services.cli.options import DESIGNS, FIRST, JsonOption
from services.cli.output import out, show_json, table
from services.platform.design import WALKTHROUGH
from services.platform.models.alias import alias_conflict
from services.platform.models.names import label_version
from services.platform.runtime.sharing.siblings import ask_ready, number_of, shared_folder
from services.platform.settings import Settings, settings

_CONNECT_S = 0.5
_ALIAS = "registry_alias"


def status(as_json: JsonOption = False) -> None:
    """Show what runs, with its memory, its log, and where to look.

    Examples:
      whiteboard status
      whiteboard status --json
    """
    config = settings()
    supervisor = Supervisor(config)
    processes = _processes(supervisor)
    running = {one["name"] for one in processes}
    # Else the connection would be tried until it times out.
    nats_stopped = "nats" in config.local_engines and "nats" not in running
    ready = {name: _ready(design.http.url(config)) for name, design in DESIGNS.items()}
    figures: dict[str, Any] = {
        "home": str(config.home),
        "redis_version": ".".join(map(str, redis_server()[1])),
        "processes": processes,
        **{design.http.name: ready[name] for name, design in DESIGNS.items()},
        "sharing": _sharing(config, running),
        "registry": _registry(config, ready),
        "alerts": [] if nats_stopped else _alerts(config),
        "reports": _reports(config),
        "ram_mb": round(supervisor.resident_mb()),
        "urls": urls(config),
    }
    if as_json:
        show_json(figures)
    elif figures["processes"]:
        _show(figures)
    else:
        message = f"nothing is running in {config.home}: `whiteboard up` starts the stack"
        out.print(escape(message), highlight=False, soft_wrap=True)


def urls(config: Settings) -> dict[str, str]:
    """What a browser can open."""
    return {
        "page": WALKTHROUGH.url(config),
        **{d.http.name: f"{d.http.url(config)}/docs" for d in DESIGNS.values()},
        "metrics": f"{FIRST.http.url(config)}/metrics",
        "streams": f"http://{config.host}:{config.nats_http_port}/jsz?streams=1",
        "s3": config.s3,
        "mlflow": f"mlflow ui --backend-store-uri {config.mlflow}",
    }


def image_url(page: str, key: str) -> str:
    """Where the page shows an image of the inbox.

    >>> image_url("http://127.0.0.1:18090", "line-a/station 1/7.jpg")
    'http://127.0.0.1:18090/api/image?key=line-a%2Fstation%201%2F7.jpg'
    """
    return f"{page}/api/image?key={urllib.parse.quote(key, safe='')}"


def _show(figures: dict[str, Any]) -> None:
    board = table("Processes", "name", "state", "pid", "MB", "log")
    for p in figures["processes"]:
        colour = "green" if p["state"] == "RUNNING" else "red"
        state = f"[{colour}]{p['state'].lower()}[/]"
        board.add_row(p["name"], state, str(p["pid"] or ""), str(p["mb"] or ""), escape(p["log"]))
    out.print(board)
    out.print(f"  home: {escape(figures['home'])}", highlight=False, soft_wrap=True)
    out.print(f"  redis version: {figures['redis_version']}", highlight=False)
    for service in (design.http.name for design in DESIGNS.values()):
        for name, value in figures[service].items():
            if name != _ALIAS:  # `_registry` looks now
                out.print(f"  {service} {name}: {escape(str(value))}", highlight=False)
    for name, one in figures["sharing"].items():
        state = "answers" if one.get("accepts") else "does not answer"
        details = (f"{key} {one[key]}" for key in ("build", "model", "connections") if key in one)
        out.print(f"  {name} {state}: {escape(', '.join(details))}", highlight=False)
    for conflict in figures["registry"].values():
        out.print(f"  [red]{conflict}[/]", highlight=False)
    for alert in figures["alerts"]:
        title = f"{alert['at'][:19]} {alert['design']} {alert['kind']}"
        out.print(f"  [red]{title}[/] {escape(alert['said'])}")
        for key in alert["examples"]:
            out.print(f"    {image_url(figures['urls']['page'], key)}", soft_wrap=True)
    for name, report in figures["reports"].items():
        out.print(f"  newest report of {name}: {report}", highlight=False)
    for name, url in figures["urls"].items():
        out.print(f"  {name:<9} {escape(url)}", highlight=False)


def _sharing(config: Settings, running: set[str]) -> dict[str, dict[str, Any]]:
    """By process of those that share a port, what it says of itself; empty: it does not answer."""
    found: dict[str, dict[str, Any]] = {}
    for app in (design.http for design in DESIGNS.values() if design.http.shares_port):
        folder = shared_folder(config.home, app.name)
        names = sorted(name for name in running if number_of(name, app.name) is not None)
        found |= {name: ask_ready(folder, name) or {} for name in names}
    return found


def _registry(config: Settings, ready: dict[str, dict[str, Any]]) -> dict[str, str]:
    """By design, how the registry's alias differs from what is served; none where it does not."""
    conflicts = {
        name: alias_conflict(config, name, label_version(found["model"]))
        for name, found in ready.items()
        if _ALIAS in found and found["model"]
    }
    return {name: conflict for name, conflict in conflicts.items() if conflict}


def _alerts(config: Settings) -> list[dict[str, Any]]:
    """The newest alerts; none where NATS is away."""
    import asyncio

    from monitoring.alerts import newest_alerts
    from services.platform.streaming.connection import connect

    async def read() -> list[dict[str, Any]]:
        nc = await connect(config, "status", timeout_s=_CONNECT_S)
        try:
            return [alert.model_dump(mode="json") for alert in await newest_alerts(nc.jetstream())]
        finally:
            await nc.close()

    try:
        return asyncio.run(read())
    except OSError:
        return []


def _reports(config: Settings) -> dict[str, str]:
    """By design, URL of the newest report; none where its service is away."""
    found = {d.name: _redirect(f"{d.http.url(config)}/reports/newest") for d in DESIGNS.values()}
    return {name: url for name, url in found.items() if url}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves redirects unfollowed."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _redirect(url: str) -> str | None:
    """Where a URL leads, None if nowhere."""
    try:
        urllib.request.build_opener(_NoRedirect).open(url, timeout=2).close()
    except urllib.error.HTTPError as error:
        where = error.headers.get("location")
        return urllib.parse.urljoin(url, where) if where else None
    except OSError:
        pass
    return None


def _processes(supervisor: Supervisor) -> list[dict[str, Any]]:
    pids = supervisor.pids()
    return [
        {
            "name": name,
            "state": state,
            "pid": pids.get(name),
            "mb": _mb(pids.get(name)),
            "log": _short(supervisor.logs / f"{name}.log"),
        }
        for name, state in supervisor.states().items()
    ]


def _short(path: Path) -> str:
    """A path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _mb(pid: int | None) -> int | None:
    import psutil

    try:
        return round(psutil.Process(pid).memory_info().rss / 1e6) if pid else None
    except psutil.NoSuchProcess:
        return None


def _ready(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))
    except OSError:
        return {}
