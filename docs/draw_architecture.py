"""Writes `docs/architecture.md` from the real imports and processes: `make architecture`.

A test holds the page to what this module returns, so the page cannot become stale.
"""

from collections.abc import Iterable
from pathlib import Path

import grimp

from services.designs import DESIGNS
from services.platform.design import SHARED_PROCESSES, HttpApp, Process
from services.platform.settings import Settings

PAGE = Path(__file__).parent / "architecture.md"
ROOTS = ("services", "features", "monitoring", "infra", "loadtest")
# Drawn as one box wherever they are imported.
SHARED = ("services.platform", "features", "monitoring")

_HEAD = """# Architecture

Written by `make architecture` from the code's imports and from `services/designs.py`; do not edit.
Each step's docstring (`whiteboard describe fraud`) and [adr](adr) give the reasons.

In the pictures an arrow means "imports". Arrows that a longer path implies are left out, and so is
a design's `design.py`, which imports everything of its design. A name with a slash is a folder that
designs share. Import contracts in `pyproject.toml` keep the arrows pointing down.

## Processes

Ports and nice values are those of `whiteboard up`; Compose and Prometheus are tested against them.

| design | process | module | port | nice |
|---|---|---|---|---|
"""

_SECTION = """
## {title}
{picture}
```mermaid
{graph}
```
"""

_PICTURE = """
![{design.title}: boxes and what moves between them](images/{design.name}.svg)

The walkthrough's diagram without its live figures; under a box's name are its process and its step.
The imports of its code:
"""


def page() -> str:
    """The page's text."""
    graph = grimp.build_graph(*ROOTS, exclude_type_checking_imports=True)
    sections = [
        _SECTION.format(
            title=one.title,
            picture=_PICTURE.format(design=one),
            graph=_mermaid(_steps(graph, one.package)),
        )
        for one in DESIGNS
    ]
    platform = _SECTION.format(
        title="Shared code", picture="", graph=_mermaid(_rooms(graph, "services.platform"))
    )
    return _HEAD + "".join(_processes()) + "".join(sections) + platform


def _processes() -> Iterable[str]:
    settings = Settings.model_construct()  # the defaults, whatever the environment says
    for design in DESIGNS:
        for process in design.everything:
            yield _row(design.name, process, settings)
    for process in SHARED_PROCESSES:
        yield _row("all", process, settings)


def _row(design: str, process: HttpApp | Process, settings: Settings) -> str:
    module = process.factory if isinstance(process, HttpApp) else process.module
    module = module.partition(":")[0]
    port = process.port(settings)
    return f"| {design} | {process.name} | `{module}` | {port} | {process.nice} |\n"


def _rooms(graph: grimp.ImportGraph, package: str) -> set[tuple[str, str]]:
    """Imports between a package's folders and files, and from them to the shared packages."""
    found = set()
    for importer in graph.modules:
        source = _room(importer, package)
        if source is None or source.endswith("/"):
            continue
        for imported in graph.find_modules_directly_imported_by(importer):
            target = _room(imported, package)
            if target not in (None, source):
                found.add((source, target))
    return found


def _steps(graph: grimp.ImportGraph, package: str) -> set[tuple[str, str]]:
    """The same without a design's wiring."""
    return {arrow for arrow in _rooms(graph, package) if "design" not in arrow}


def _room(module: str, package: str) -> str | None:
    """The box that a module is drawn in; None for one that is not on this picture."""
    if module.startswith(f"{package}."):
        return module.removeprefix(f"{package}.").partition(".")[0]
    for shared in SHARED:
        if shared != package and (module == shared or module.startswith(f"{shared}.")):
            return f"{shared.replace('.', '/')}/"
    return None


def _mermaid(arrows: set[tuple[str, str]]) -> str:
    lines = [f"    {_box(source)} --> {_box(target)}" for source, target in sorted(_direct(arrows))]
    return "\n".join(["flowchart TD", *lines])


def _direct(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no longer way implies: the transitive reduction, where there is no cycle."""
    below: dict[str, set[str]] = {}
    for source, target in arrows:
        below.setdefault(source, set()).add(target)

    def reach(box: str, seen: set[str]) -> set[str]:
        for target in below.get(box, set()) - seen:
            seen |= {target} | reach(target, seen | {target})
        return seen

    return {
        (source, target)
        for source, target in arrows
        if not any(target in reach(other, set()) for other in below[source] - {target})
    }


def _box(name: str) -> str:
    return f"{name.replace('/', '_')}[{name}]"


if __name__ == "__main__":
    PAGE.write_text(page())
