"""One page of metrics for several processes: each writes its samples into a file, all are added.

A process that was killed leaves its last file, and the one that starts in its place counts on from
there: a sum that fell when a process ended would be a restart to Prometheus, and its rate a peak
of everything that the others had counted before.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from time import time
from typing import Any, NamedTuple

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from services.platform.runtime.sharing.siblings import Member

log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
# A file that is older is of a process that has ended, or hangs: its gauges say nothing.
_FRESH_S = 5.0
_SUFFIX = ".json"
_COUNTED = ("counter", "histogram", "summary", "gaugehistogram")
# Gauges that are no amounts: of all processes the largest, or the smallest. Others are added.
_LARGEST = ("model_version", "rules_version", "python_info", "process_max_fds")
_SMALLEST = ("process_start_time_seconds",)

_Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, _Labels]


class _Family(NamedTuple):
    type: str
    documentation: str
    samples: dict[_Key, float]


_Page = dict[str, _Family]


class SharedMetrics:
    """The metrics of all processes that share a port."""

    def __init__(self, member: Member, registry: CollectorRegistry = REGISTRY) -> None:
        """Count on from where a process of this name ended; the first process of all from 0."""
        self._member, self._registry = member, registry
        self._folder = member.folder / "metrics"
        self._folder.mkdir(exist_ok=True)
        if member.first:
            for path in self._folder.glob(f"*{_SUFFIX}"):
                path.unlink()
        self._writing = Lock()
        self._own = self._folder / f"{member.name}{_SUFFIX}"
        before = _read(self._own) or {}
        self._before = {n: f for n, f in before.items() if f.type in _COUNTED}

    def page(self) -> bytes:
        """Prometheus' text: of this process, or of all where there are others."""
        if not self._has_others():
            return generate_latest(self._registry)
        # Written too: whichever process answers next counts at least what this one shows now.
        pages = [self.write(), *self._of_others()]
        return generate_latest(_Pages(_together(pages)))

    def write(self) -> _Page:
        """Leave the present samples for the others, and return them."""
        now = self._now()
        page = {
            name: [f.type, f.documentation, [[*key, value] for key, value in f.samples.items()]]
            for name, f in now.items()
        }
        partial = self._own.with_suffix(".partial")
        try:
            with self._writing:
                partial.write_bytes(orjson.dumps(page))
                os.replace(partial, self._own)
        except OSError as error:
            log.warning("metrics are not shared: %s", error)
        return now

    async def write_forever(self) -> None:
        """Write every second while there are others. Runs until cancelled."""
        while True:
            if self._has_others():
                await asyncio.to_thread(self.write)
            await asyncio.sleep(WRITE_INTERVAL_S)

    def _has_others(self) -> bool:
        files = (path for path in self._folder.glob(f"*{_SUFFIX}") if path != self._own)
        return bool(self._before or self._member.others() or any(files))

    def _now(self) -> _Page:
        """The samples of this process and of those before it in its place."""
        return _together([_collect(self._registry), self._before])

    def _of_others(self) -> Iterator[_Page]:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            page = None if path == self._own else _read(path)
            if page is not None:
                fresh = time() - path.stat().st_mtime < _FRESH_S
                yield {n: f for n, f in page.items() if fresh or f.type in _COUNTED}


class _Pages(Collector):
    """Samples as a registry."""

    def __init__(self, page: _Page) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        for name, family in self._page.items():
            metric = Metric(name, family.documentation, family.type)
            metric.samples = [
                Sample(sample, dict(labels), value)
                for (sample, labels), value in family.samples.items()
            ]
            yield metric


def _collect(registry: CollectorRegistry) -> _Page:
    page: _Page = {}
    for metric in registry.collect():
        samples = {(s.name, tuple(s.labels.items())): s.value for s in metric.samples}
        page[metric.name] = _Family(metric.type, metric.documentation, samples)
    return page


def _read(path: Path) -> _Page | None:
    """A process's samples; None where there are none that can be read."""
    try:
        found = orjson.loads(path.read_bytes())
        return {name: _family(*family) for name, family in found.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is left out of the metrics: %s", path.name, error)
        return None


def _family(type_: str, documentation: str, rows: list[list[Any]]) -> _Family:
    """A family of a file: its samples are lists of name, labels and value."""
    samples = {(name, tuple(map(tuple, labels))): value for name, labels, value in rows}
    return _Family(type_, documentation, samples)


def _together(pages: Iterable[_Page]) -> _Page:
    """Samples of several processes as one.

    >>> pages = [{"a": _Family("counter", "A", {("a_total", ()): float(n)})} for n in (1, 2)]
    >>> _together(pages)["a"].samples
    {('a_total', ()): 3.0}
    """
    total: _Page = {}
    for page in pages:
        for name, family in page.items():
            kept = total.setdefault(name, family._replace(samples={})).samples
            for key, value in family.samples.items():
                kept[key] = _combined(key[0], kept[key], value) if key in kept else value
    return total


def _combined(name: str, one: float, other: float) -> float:
    if name in _LARGEST:
        return max(one, other)
    # When a counter began.
    if name in _SMALLEST or name.endswith("_created"):
        return min(one, other)
    return one + other
