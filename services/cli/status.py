"""`whiteboard status`."""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from infra.local.supervisor import Supervisor
from services.cli.output import JsonOption, out, show_json, table
from services.platform.settings import Settings, settings


def status(as_json: JsonOption = False) -> None:
    """Show what runs, with its memory, its log, and where to look.

    Examples:
      whiteboard status
      whiteboard status --json
    """
    config = settings()
    supervisor = Supervisor(config)
    figures: dict[str, Any] = {
        "processes": _processes(supervisor),
        "scorer": _ready(config.scorer),
        "inspector": _ready(config.inspector),
        "alerts": _alerts(config),
        "reports": _reports(config),
        "ram_mb": round(supervisor.resident_mb()),
        "urls": urls(config),
    }
    if as_json:
        show_json(figures)
        return
    if not figures["processes"]:
        out.print("nothing is running: `whiteboard up` starts the stack")
        return
    board = table("Processes", "name", "state", "pid", "MB", "log")
    for p in figures["processes"]:
        colour = "green" if p["state"] == "RUNNING" else "red"
        state = f"[{colour}]{p['state'].lower()}[/]"
        board.add_row(p["name"], state, str(p["pid"] or ""), str(p["mb"] or ""), p["log"])
    out.print(board)
    for service in ("scorer", "inspector"):
        for name, value in figures[service].items():
            out.print(f"  {service} {name}: {value}", highlight=False)
    for alert in figures["alerts"]:
        out.print(f"  [red]{alert['at'][:19]} {alert['design']} {alert['kind']}[/] {alert['said']}")
    for name, report in figures["reports"].items():
        out.print(f"  newest report of {name}: {report}", highlight=False)
    for name, url in figures["urls"].items():
        out.print(f"  {name:<9} {url}", highlight=False)


def urls(config: Settings) -> dict[str, str]:
    """Where a person would look."""
    return {
        "scorer": f"{config.scorer}/docs",
        "inspector": f"{config.inspector}/docs",
        "metrics": f"{config.scorer}/metrics",
        "streams": f"http://{config.host}:{config.nats_http_port}/jsz?streams=1",
        "s3": config.s3,
        "mlflow": f"mlflow ui --backend-store-uri {config.mlflow}",
    }


def _alerts(config: Settings) -> list[dict[str, Any]]:
    """The newest alerts; none where NATS is away."""
    from monitoring.alerts import newest
    from services.platform.streaming.consumer import connect

    async def read() -> list[dict[str, Any]]:
        nc = await connect(config, "status", patience_s=1.0)
        try:
            return [alert.model_dump(mode="json") for alert in await newest(nc.jetstream())]
        finally:
            await nc.close()

    try:
        return asyncio.run(read())
    except OSError:
        return []


def _reports(config: Settings) -> dict[str, str]:
    """By design, where the newest report is; none where S3 is away."""
    from services.platform.storage.lake import Lake
    from services.platform.storage.reports import newest_report

    try:
        names = {design: newest_report(Lake(config), design) for design in ("fraud", "cv")}
    except OSError:
        return {}
    base = {"fraud": config.scorer, "cv": config.inspector}
    return {design: f"{base[design]}/reports/{name}" for design, name in names.items() if name}


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
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _mb(pid: int | None) -> int | None:
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
