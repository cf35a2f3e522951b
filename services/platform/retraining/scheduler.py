"""The scheduler: nightly jobs by the clock, or sooner when drift is reported or a person asks.

Its command line names the designs it serves. It runs each job as a process of its own, the same
command a person would type, one at a time: training's libraries and memory are gone when the job
is. An order is acknowledged as it starts: one that takes this process down is not tried for ever.
"""

import argparse
import asyncio
import logging
import sys
import time

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from pydantic import ValidationError

from services.platform.retraining.admin import CONTROL, Order, control_subject
from services.platform.runtime.worker import run_worker, stand_aside
from services.platform.settings import Settings, settings
from services.platform.streaming.consumer import connect, ensure_stream
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "scheduler"
# Drift is reported for as long as it lasts; one night an hour is enough of an answer.
_CALM_S = 3_600.0


class Scheduler:
    """Queues jobs and runs them one after the other."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._last_alert: dict[str, float] = {}

    async def work(self) -> None:
        """Run jobs as they come. Runs until cancelled."""
        while True:
            job = await self._jobs.get()
            log.info("starting %s", " ".join(job))
            command = (sys.executable, "-m", "services.cli.main", *job, "--json")
            process = await asyncio.create_subprocess_exec(*command)
            if job[0] != "rollback":
                stand_aside(process.pid)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                await process.wait()
                raise
            # 2 says that the gate refused, which is an answer, not a failure.
            EVENTS.labels(NAME, "done" if code in (0, 2) else "failed").inc()
            log.info("%s ended with %d", " ".join(job), code)

    def night(self, design: str) -> None:
        """Queue the nightly job."""
        self._jobs.put_nowait(("night", design))

    def alert(self, design: str, what: str) -> None:
        """Queue a night when drift is reported, once an hour at most."""
        if time.monotonic() - self._last_alert.get(design, -_CALM_S) >= _CALM_S:
            self._last_alert[design] = time.monotonic()
            log.warning("drift reported: %s", what)
            self.night(design)

    def order(self, design: str, data: bytes) -> None:
        """Queue what an order asks for. ValidationError if it can't be read."""
        asked = Order.model_validate_json(data)
        if asked.verb == "night":
            self.night(design)
        elif asked.verb == "rollback":
            self._jobs.put_nowait(("rollback", design, "--reason", asked.reason))
        elif asked.candidate:
            self._jobs.put_nowait(("swap", design, asked.candidate))


async def take_orders(nc: Client, scheduler: Scheduler, design: str) -> None:
    """Pass a design's orders on the control stream on. Runs until cancelled."""
    js = nc.jetstream()
    await ensure_stream(js, CONTROL, ["control.>"])
    orders = await js.pull_subscribe(control_subject(design), durable=f"{NAME}-{design}")
    while True:
        try:
            [message] = await orders.fetch(1, timeout=30)
        except (NatsTimeout, TimeoutError):
            continue
        await message.ack()
        try:
            scheduler.order(design, message.data)
        except ValidationError as error:
            log.warning("an order that can't be read: %s", error.errors()[0]["msg"])


async def heed_alerts(nc: Client, scheduler: Scheduler, design: str) -> None:
    """Pass a design's alerts on, of drift and of cost. A lost one comes again while it lasts."""

    async def on_alert(message: Msg) -> None:
        scheduler.alert(design, message.data[:200].decode(errors="replace"))

    await nc.subscribe(f"alerts.{design}.*", cb=on_alert)


async def serve(config: Settings, designs: list[str]) -> None:
    """Run until cancelled."""
    nc = await connect(config, NAME, patience_s=60.0)
    scheduler = Scheduler()
    hour, minute = config.night_utc.split(":")
    clock = AsyncIOScheduler(timezone="UTC")
    for design in designs:
        trigger = CronTrigger(hour=hour, minute=minute, timezone="UTC")
        clock.add_job(scheduler.night, trigger, [design])
        await heed_alerts(nc, scheduler, design)
    clock.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scheduler.work())
            for design in designs:
                group.create_task(take_orders(nc, scheduler, design))
    finally:
        clock.shutdown(wait=False)
        await nc.close()


def main() -> None:
    """Start the scheduler."""
    parser = argparse.ArgumentParser(prog="scheduler", description=__doc__)
    parser.add_argument("designs", nargs="+", help="whose nights, orders and alerts to heed")
    parser.add_argument("--metrics-port", type=int, help="Prometheus port")
    options = parser.parse_args()
    config = settings()
    port = options.metrics_port or config.metrics_port + 3
    run_worker(config, port, lambda: serve(config, options.designs))


if __name__ == "__main__":
    main()
