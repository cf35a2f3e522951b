"""What the page shows: the designs with their texts, and the live state of boxes and arrows.

Sources are read once a second while a page is open, and not at all otherwise.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.platform.design import SHARED_PROCESSES, WALKTHROUGH, Design
from services.platform.diagram import Arrow, Box, Diagram, Measure, default_diagram
from services.platform.progress import progress_folder, read_notes
from services.platform.settings import Settings
from services.platform.telemetry import PUBLISH_STAGE
from services.walkthrough import answers, code
from services.walkthrough.figures import QUANTILE_READINGS, means, value
from services.walkthrough.labels import Label, label_places, live_texts
from services.walkthrough.sources import Scrape, Sources

INTERVAL_S = 1.0
_STAGES = "stage_duration_seconds"


def diagram_of(design: Design) -> Diagram:
    """A design's diagram; a plain one where it brings none."""
    if design.walkthrough is not None:
        return design.walkthrough().diagram
    return default_diagram(design.http.name, [process.name for process in design.processes])


class Board:
    """The state of an installation, as the page shows it."""

    def __init__(self, config: Settings, designs: Sequence[Design]) -> None:
        """Read nothing yet."""
        self.designs = {design.name: design for design in designs}
        self.diagrams = {design.name: diagram_of(design) for design in designs}
        shared = [process for process in SHARED_PROCESSES if process is not WALKTHROUGH]
        self.processes = {p.name: p for d in designs for p in d.everything} | {
            p.name: p for p in shared
        }
        metrics = {m.metric for diagram in self.diagrams.values() for m in diagram.measures}
        self.sources = Sources(config, self.processes.values(), metrics | answers.METRICS)
        self.readings: dict[str, deque[Scrape]] = {
            name: deque(maxlen=QUANTILE_READINGS) for name in self.sources.names
        }
        self._progress = progress_folder(config.home)
        self._logs, self._apart = config.home / "logs", config.host_by_name
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While it lasts, sources are read."""
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._read_forever())
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None
                for readings in self.readings.values():
                    readings.clear()
                await self.sources.close()

    async def next_reading(self) -> None:
        """Wait until sources have been read once more."""
        async with self._changed:
            await self._changed.wait()

    async def ticks(self) -> AsyncIterator[answers.Tick]:
        """The live state, after each reading."""
        async with self.watched():
            while True:
                await self.next_reading()
                yield self.tick()

    async def state(self) -> answers.State:
        """Everything, live figures included; rates need two readings."""
        async with self.watched():
            while min(map(len, self.readings.values())) < 2:
                await self.next_reading()
            return self.describe()

    async def stages(self, design: str) -> list[answers.StageState]:
        """Where the time of a design's requests goes, stage by stage, over the newest readings."""
        source = self.designs[design].http.name
        async with self.watched():
            while len(self.readings[source]) < 2:
                await self.next_reading()
            found = means(_STAGES, "stage", self.readings[source])
        return [
            answers.StageState(name=name, mean_ms=mean * 1e3, on_path=name != PUBLISH_STAGE)
            for name, mean in found.items()
        ]

    def describe(self) -> answers.State:
        """Everything as of the newest reading."""
        return answers.State(
            designs=[self._design(d) for d in self.designs.values()],
            progress=self._under_way(),
        )

    def tick(self) -> answers.Tick:
        """What changes from reading to reading."""
        return answers.Tick(
            designs={name: self._live(diagram) for name, diagram in self.diagrams.items()},
            progress=self._under_way(),
        )

    def process_state(self, name: str) -> str:
        """State of a process or engine as of the newest reading."""
        readings = self.readings.get(name)
        return readings[-1].state if readings else "unknown"

    async def _read_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for name, scrape in (await self.sources.read()).items():
                self.readings[name].append(scrape)
            async with self._changed:
                self._changed.notify_all()
            due = max(due + INTERVAL_S, loop.time())
            await asyncio.sleep(due - loop.time())

    def _under_way(self) -> list[answers.Progress]:
        return [
            answers.Progress(design=name, **note._asdict())
            for name, note in read_notes(self._progress).items()
        ]

    def _live(self, diagram: Diagram) -> answers.LiveDesign:
        return answers.LiveDesign(
            boxes={box.id: self._live_box(box) for box in diagram.boxes},
            arrows=[
                answers.LiveArrow(rate=self._value(a.rate), waits=self._value(a.waits))
                for a in diagram.arrows
            ],
        )

    def _live_box(self, box: Box) -> answers.LiveBox:
        figures = [self._value(measure) for measure in box.figures]
        return answers.LiveBox(state=self._state(box, figures), figures=figures)

    def _state(self, box: Box, figures: Sequence[float | None]) -> str:
        if not box.process:
            return "active" if any(figures) else "idle"
        state = self.process_state(box.process)
        if state == "down" and not self._was_started(box.process):
            return "not started"
        if state == "running" and (self._value(box.degraded) or 0.0) > 0.0:
            return "degraded"
        return state

    def _was_started(self, process: str) -> bool:
        """Whether it has a log, which its first start makes; a container's is not here."""
        return self._apart or (self._logs / f"{process}.log").exists()

    def _value(self, measure: Measure | None) -> float | None:
        if measure is None or measure.source not in self.readings:
            return None
        return value(measure, self.readings[measure.source])

    def _design(self, design: Design) -> answers.DesignState:
        diagram = self.diagrams[design.name]
        places = label_places(diagram, live_texts(diagram))
        steps = design.steps({})
        by_module = {s.file.rstrip("/").removesuffix(".py").rpartition("/")[2]: s for s in steps}
        extras = design.walkthrough() if design.walkthrough is not None else None
        return answers.DesignState(
            name=design.name,
            title=design.title,
            event=extras.event if extras else "",
            traffic_rate=design.traffic_rate,
            audited=design.audit is not None,
            load_rate=design.load_rate,
            budget_ms=design.problem().latency_budget_ms,
            drifts=list(design.drifts),
            commands=list(design.commands),
            candidates=[
                answers.CandidateState(name=name, role=role)
                for name, role in code.candidates(design.package).items()
            ],
            steps=[
                answers.StepState(
                    number=step.number, title=step.title, file=step.file, line=1,
                    decision=step.decision, why=step.why, figures=[step.figure] if step.figure
                    else [], boxes=[b.id for b in diagram.boxes if by_module.get(b.step) is step],
                )
                for step in steps
            ],
            boxes=[
                self._box(box, by_module[box.step].number if box.step in by_module else 0)
                for box in diagram.boxes
            ],
            arrows=[
                self._arrow(arrow, place)
                for arrow, place in zip(diagram.arrows, places, strict=True)
            ],
        )  # fmt: skip

    def _box(self, box: Box, step: int) -> answers.BoxState:
        live = self._live_box(box)
        file, line = code.beginning(box.process, self.processes.get(box.process))
        return answers.BoxState(
            id=box.id, label=box.label, state=live.state, process=box.process, step=step,
            x=box.x, y=box.y, file=file, line=line, command=box.command, question=box.question,
            answer=box.answer, faults=dict(box.faults), aws=box.aws, at_scale=box.at_scale,
            figures=[
                answers.FigureState(label=m.label, unit=m.unit, value=v)
                for m, v in zip(box.figures, live.figures, strict=True)
            ],
        )  # fmt: skip

    def _arrow(self, arrow: Arrow, place: Label) -> answers.ArrowState:
        return answers.ArrowState(
            source=arrow.source, target=arrow.target, path=arrow.path, label=arrow.label,
            label_at=answers.LabelPlace.model_validate(place._asdict()),
            rate=self._value(arrow.rate), waits=self._value(arrow.waits),
        )  # fmt: skip
