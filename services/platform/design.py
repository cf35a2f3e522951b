"""A design: its eight steps, its processes, and the functions behind the commands.

The one place where a design is wired. The process manager, Compose, Prometheus, the signal
catalogue and the command line follow from it or are tested against it.
"""

import ast
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from services.platform.access import NOTHING, Access
from services.platform.hooks import (
    Audit,
    BenchmarkDrifts,
    Bootstrap,
    Compare,
    CountDamage,
    Demo,
    Evaluate,
    Expire,
    Figures,
    LakeTables,
    MakeCapacity,
    MakeRetrainingSpec,
    NewestWindow,
    Problem,
    Simulate,
    Train,
)
from services.platform.settings import Settings
from services.platform.walkthrough import Walkthrough

# (module, title); a step of two names is whichever of them a design has.
STEPS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("problem",), "Problem and KPI"),
    (("ingestion",), "Data ingestion"),
    (("features",), "Feature groups"),
    (("candidates",), "Model options"),
    (("serving",), "Serving"),
    (("monitoring",), "Monitoring"),
    (("retraining",), "Retraining"),
    (("privacy", "edge"), "Privacy / edge"),
)

# CPU priority as nice values: request path 0, engines and workers 10, deferrable consumers 19; a
# tenth and a hundredth of the request path's share (ADR 11).
WORKER_NICE, DEFERRABLE_NICE = 10, 19


# Ports of further processes of one kind, counted from `metrics_port`.
_INSTANCES_OFFSET = 40
# More scorers than cores only wait for each other; some more do no harm.
_PROCESSES_A_CORE = 4


def instance_name(name: str, number: int) -> str:
    """Name of one of several processes that share one's work.

    >>> instance_name("worker", 0), instance_name("worker", 2)
    ('worker', 'worker-2')
    """
    return f"{name}-{number}" if number else name


@dataclass(frozen=True)
class Instances:
    """How many processes share the work of one kind, and changing it while they run.

    Attributes:
        count: How many there are to be; 1 where that is not known.
        check: Raises ValueError if so many cannot share it.
        change: Hands the work over. Processes beyond the new number may be stopped then. Raises
            ValueError where that cannot be done now; ConnectionError, OSError: an engine is away.
    """

    count: Callable[[Settings], int]
    check: Callable[[Settings, int], None]
    change: Callable[[Settings, int], None]


@dataclass(frozen=True)
class Process:
    """A worker process.

    Attributes:
        name: As the process manager and Compose call it; unique over all designs.
        module: Holds `async def main(settings, **options)`, which runs until it is cancelled, and
            `parse_arguments(settings, arguments)`, which returns the options, where it takes any.
        metrics_offset: Its Prometheus port, counted from the setting `metrics_port`.
        nice: `WORKER_NICE` or `DEFERRABLE_NICE`.
        access: What its account may do at the engines.
        instances: Where several share its work. `--worker N` tells each which one it is, and the
            first shows in the gauge `sharing_processes` how many there are.
    """

    name: str
    module: str
    metrics_offset: int
    nice: int
    access: Access = NOTHING
    instances: Instances | None = None
    port_setting = "metrics_port"

    def instance(self, number: int) -> str:
        """Name of one of several, as the process manager and Compose call it."""
        return instance_name(self.name, number)

    def port(self, settings: Settings, number: int = 0) -> int:
        """Its Prometheus port.

        Args:
            number: Which one of several.
        """
        offset = _INSTANCES_OFFSET + number if number else self.metrics_offset
        return settings.metrics_port + offset

    def metrics_url(self, settings: Settings, number: int = 0) -> str:
        """Its Prometheus page. See `port`."""
        host = self.instance(number) if settings.host_by_name else settings.host
        return f"http://{host}:{self.port(settings, number)}/metrics"


@dataclass(frozen=True)
class HttpApp:
    """The HTTP service of a design.

    Attributes:
        name: As the process manager and Compose call it. The settings `<name>_port` and
            `<name>_url` move it.
        factory: "module:function" that makes the app.
        route: The route that decides.
        default_port: Where the setting `<name>_port` is not set.
        object_events: The route that takes the object store's notifications; empty: none does.
        access: What its account may do at the engines.
        nice: 0 on the request path.
        shares_port: Whether several processes may serve it on one port, as many as the setting
            `<name>_processes` says.
    """

    name: str
    factory: str
    route: str
    default_port: int
    object_events: str = ""
    access: Access = NOTHING
    nice: int = 0
    shares_port: bool = False

    @property
    def port_setting(self) -> str:
        """Name of the setting that moves its port."""
        return f"{self.name}_port"

    @property
    def processes_setting(self) -> str:
        """Name of the setting that says how many processes share its port."""
        return f"{self.name}_processes"

    def processes(self, settings: Settings) -> int:
        """How many processes share its port. ValueError says what else is possible."""
        if not self.shares_port:
            return 1
        said = settings.value(self.processes_setting, "1").strip()
        most = (os.cpu_count() or 1) * _PROCESSES_A_CORE
        if not (said.isascii() and said.isdigit() and 1 <= int(said) <= most):
            raise ValueError(
                f"WHITEBOARD_{self.processes_setting.upper()}={said}: choose a number from 1 to "
                f"{most}, {_PROCESSES_A_CORE} for each core of this machine"
            )
        return int(said)

    def instance(self, number: int) -> str:
        """Name of one of several, as the process manager calls it."""
        return instance_name(self.name, number)

    def port(self, settings: Settings) -> int:
        """The port it listens on."""
        return int(settings.value(self.port_setting, str(self.default_port)))

    def url(self, settings: Settings) -> str:
        """Base URL, as clients reach it."""
        return (
            settings.value(f"{self.name}_url", "")
            or f"http://{settings.host}:{self.port(settings)}"
        )


P = TypeVar("P", bound=HttpApp | Process)

# Serves all designs: it retrains every night, and sooner on drift or by command.
# Its jobs are commands, which have the operator's account.
SCHEDULER = Process(
    "scheduler",
    "services.platform.retraining.scheduler",
    3,
    DEFERRABLE_NICE,
    access=Access(listens=("alerts.>",), consumes=("CONTROL",), makes=("CONTROL",)),
)
# Shows all designs in a browser. What it does at the engines for a design, the design declares.
WALKTHROUGH = HttpApp(
    "walkthrough",
    "services.walkthrough.app:create_app",
    "/api/state",
    18090,
    access=Access(
        redis="inspect", reads=("MODEL_HISTORY", "ALERTS"), loads=("lake", "inbox", "results")
    ),
    nice=WORKER_NICE,
)
SHARED_PROCESSES = (SCHEDULER, WALKTHROUGH)


@dataclass(frozen=True)
class Step:
    """One of the eight steps of one design, as `describe` shows it."""

    number: int
    title: str
    file: str
    decision: str
    why: str
    built: bool
    figure: str


@dataclass(frozen=True, kw_only=True)
class Design:
    """One of the designs.

    Hooks that are None are commands that this design does not have.

    Attributes:
        name: As on the command line.
        title: As a heading.
        package: Where its steps are.
        http: Its HTTP service.
        processes: Its workers.
        first_candidate: The first champion.
        traffic_rate: Simulated events a second unless the command line says otherwise.
        load_rate: Requests a second of `load`; 0 if `loadtest` has no scenario for it.
        drifts: What its simulator can change.
        protocol: Name of the published protocol that `evaluate` follows.
        more_protocols: Others that `evaluate` follows on request.
        commands: Commands that are this design's own.
        absent: By command that it does not have, why, or what serves instead.
        figures: By step, a function that words its measured figure, given those of the demo.
        problem: Cost model and latency budget.
        bootstrap: Makes streams, history and the first champion where they are missing. Cheap
            where nothing is. Raises ConnectionError, OSError, ValueError.
        simulate: Plays live traffic.
        train: Trains a candidate and registers it. Raises KeyError, ValueError, OSError.
        retraining_spec: How challengers are trained and compared.
        compare: Trains every candidate on the same data.
        newest: The newest decisions as the drift monitor sees them.
        benchmark_drifts: Injects drifts and counts what the monitors detect.
        evaluate: Runs the published protocol.
        demo: Its part of the demo.
        audit: Recomputes logged features from raw events.
        damage: Counts what a fault lost, doubled, skewed and cost.
        capacity: Its parts with measured rates, for the planner.
        lake_tables: The tables whose small files `compact` joins, nightly and by command.
        expire: Removes old rows that nothing needs any more.
        walkthrough: Diagram and live views of the walkthrough.
        walkthrough_access: What the walkthrough's account may do for them.
        simulator_access: What its simulator does at the engines, where it has an account: Compose.
    """

    name: str
    title: str
    package: str
    http: HttpApp
    processes: tuple[Process, ...]
    first_candidate: str
    problem: Callable[[], Problem]
    bootstrap: Bootstrap
    simulate: Simulate
    train: Train
    retraining_spec: MakeRetrainingSpec
    traffic_rate: float
    load_rate: int = 0
    drifts: tuple[str, ...] = ()
    protocol: str = ""
    more_protocols: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Callable[[Figures], str]] = field(default_factory=dict)
    compare: Compare | None = None
    newest: NewestWindow | None = None
    benchmark_drifts: BenchmarkDrifts | None = None
    evaluate: Evaluate | None = None
    demo: Callable[[], Demo] | None = None
    audit: Audit | None = None
    damage: CountDamage | None = None
    capacity: MakeCapacity | None = None
    lake_tables: LakeTables | None = None
    expire: Expire | None = None
    walkthrough: Callable[[], Walkthrough] | None = None
    walkthrough_access: Access = NOTHING
    simulator_access: Access = NOTHING

    def __str__(self) -> str:
        return self.name

    @property
    def everything(self) -> tuple[HttpApp | Process, ...]:
        """The HTTP service and the workers."""
        return self.http, *self.processes

    def process(self, name: str) -> HttpApp | Process:
        """A process by name. KeyError lists those there are."""
        return named(self.everything, name)

    def worker(self, name: str) -> Process:
        """A worker by name. KeyError lists those there are."""
        return named(self.processes, name)

    def steps(self, figures: Figures) -> list[Step]:
        """The eight steps; one whose file does not exist says that it is not built yet.

        Args:
            figures: What the last demo measured.
        """
        return [
            self._step(number, names, title, figures)
            for number, (names, title) in enumerate(STEPS, start=1)
        ]

    def _step(self, number: int, names: tuple[str, ...], title: str, figures: Figures) -> Step:
        for name in names:
            module = f"{self.package}.{name}"
            spec = find_spec(module)
            if spec is not None and spec.origin:
                path = module.replace(".", "/")
                path += "/" if spec.submodule_search_locations is not None else ".py"
                decision, why = _docstring(Path(spec.origin))
                return Step(number, title, path, decision, why, True, self._figure(name, figures))
        return Step(number, title, "", "not built yet", "", False, "")

    def _figure(self, name: str, figures: Figures) -> str:
        try:
            return self.figures[name](figures) if name in self.figures else ""
        except (KeyError, TypeError):  # a figure that is missing, or that was no number
            return "not measured yet: `whiteboard demo`"


def accounts(designs: Iterable[Design]) -> dict[str, Access]:
    """By account, what it may do at the engines: one for each process."""
    all_designs = tuple(designs)
    processes = [process for design in all_designs for process in design.everything]
    made = {process.name: process.access for process in (*processes, *SHARED_PROCESSES)}
    views = (design.walkthrough_access for design in all_designs)
    return {**made, WALKTHROUGH.name: WALKTHROUGH.access.plus(*views)}


def registered(settings: Settings) -> tuple[Design, ...]:
    """The designs of this installation, as the module named by the setting `designs` lists them."""
    return tuple(import_module(settings.designs).DESIGNS)


def named(processes: tuple[P, ...], name: str) -> P:
    """A process by name. KeyError lists those there are."""
    for process in processes:
        if process.name == name:
            return process
    raise KeyError(f"no process {name!r}: choose from {', '.join(p.name for p in processes)}")


def _docstring(path: Path) -> tuple[str, str]:
    """A step's docstring as (what is decided, why): its first line, and the rest.

    Read from the source: importing a step would import its libraries.
    """
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    head, _, rest = text.strip().partition("\n")
    decision = head.partition(": ")[2] or head
    paragraphs = (" ".join(part.split()) for part in rest.strip().split("\n\n"))
    return decision[:1].upper() + decision[1:], "\n\n".join(paragraphs)
