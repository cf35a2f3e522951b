"""A drift report as one HTML page: a summary first, Evidently's report of every column below.

The summary compares two verdicts: the monitor's own, by p-values calibrated on clean windows
(`monitoring/reference.py`), which raise the alarms, and Evidently's, by its default thresholds
(https://docs.evidentlyai.com). Evidently's own page is 5 MB for 21 columns: 3.5 MB of it is a
script with React and Plotly, the rest are plotted numbers of 17 digits. So it is embedded
compressed, with numbers of 5 digits, and decompressed by the browser.
"""

import base64
import gzip
import html
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monitoring.drift_monitor import DriftMonitor, WindowResult
from monitoring.reference import Reference
from monitoring.statistics import STATISTICS
from services.platform.types import Floats

_DIGITS = 5

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #1c2330; }}
main {{ padding: 1.5rem; max-width: 72rem; overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #d8dde6; }}
th:first-child, td:first-child {{ text-align: left; }}
.drift {{ color: #b3261e; font-weight: 600; }}
iframe {{ border: 0; width: 100%; height: 100vh; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{summary}
</main>
<iframe id="evidently" title="Evidently's report"></iframe>
<script id="compressed" type="text/plain">{compressed}</script>
<script>
const bytes = Uint8Array.from(
  atob(document.getElementById("compressed").textContent), c => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
new Response(stream).text().then(
  text => {{ document.getElementById("evidently").srcdoc = text; }});
</script>
</body>
</html>
"""

# By column: Evidently's score of each of its methods, and whether it calls that drift.
Evidently = Mapping[str, Mapping[str, tuple[float, bool]]]


@dataclass(frozen=True)
class Summary:
    """Both verdicts on one window.

    Attributes:
        columns: (F,) names.
        clean_rows: Rows of the clean windows behind the monitor's p-values.
        monitor: Distances, p-values and findings of the monitor.
        evidently: Scores and verdicts of Evidently; without the columns that have no values.
    """

    columns: tuple[str, ...]
    clean_rows: int
    monitor: WindowResult
    evidently: Evidently

    def drifted(self) -> dict[str, list[str]]:
        """By column that drifted, the detectors that found it."""
        found: dict[str, list[str]] = {}
        for finding in self.monitor.findings:
            found.setdefault(finding.column, []).append(finding.detector)
        return found

    def drifted_by_evidently(self) -> list[str]:
        """Columns that drifted by any of Evidently's methods."""
        return [
            column
            for column in self.columns
            if any(drift for _, drift in self.evidently.get(column, {}).values())
        ]


def write(reference: Reference, window: Floats, title: str, path: Path) -> None:
    """Write a window's report against its reference.

    Args:
        reference: Of the model that took the decisions.
        window: (N, F), columns as in the reference.
        title: Of the page.
        path: Where to; its folder is made.

    Raises:
        ValueError: the window is empty.
    """
    # A reference that was stored before a column existed lacks the first ones.
    window = window[:, -len(reference.names) :]
    monitor = DriftMonitor(reference).check(window)
    evidently, page = _evidently(reference, window, title)
    summary = Summary(reference.names, reference.clean_rows, monitor, evidently)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _PAGE.format(
            title=html.escape(title),
            summary="\n".join(_paragraphs(summary)),
            compressed=base64.b64encode(gzip.compress(page, mtime=0)).decode(),
        )
    )


def _paragraphs(summary: Summary) -> Iterable[str]:
    yield (
        f"<p>{summary.monitor.rows:,} decisions, {len(summary.columns)} columns. The monitor's "
        f"p-values are calibrated for windows of about {summary.clean_rows:,} decisions: a much "
        "shorter window, such as half a day, differs from those without any drift.</p>"
    )
    detectors = [f"{name} ({', '.join(found)})" for name, found in summary.drifted().items()]
    yield f"<p>Drifted by the monitor, which raises the alarms: {_list(detectors)}</p>"
    yield f"<p>Drifted by Evidently's defaults: {_list(summary.drifted_by_evidently())}</p>"
    yield from _table(summary)
    yield (
        "<p>By the monitor: a distance in its statistic's unit, and the chance p that a clean "
        "window lies as far off. By Evidently: a distance or a textbook p-value, as its "
        "method has it.</p>"
    )


def _list(names: Iterable[str]) -> str:
    text = html.escape(", ".join(names))
    return f'<span class="drift">{text}</span>' if text else "none"


def _table(summary: Summary) -> Iterable[str]:
    statistics = list(summary.monitor.distances)
    methods = list(dict.fromkeys(m for scores in summary.evidently.values() for m in scores))
    shown_only = {name for name, one in STATISTICS.all().items() if not one.alarms}
    heads = [
        "column",
        *(f"{name} (no alarms)" if name in shown_only else name for name in statistics),
        *(f"Evidently {method}" for method in methods),
    ]
    yield f"<table><tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>"
    drifted = {(f.detector, f.column) for f in summary.monitor.findings}
    for i, column in _drifted_first(summary):
        cells = [f"<td>{html.escape(column)}</td>"]
        for name in statistics:
            distance, p = summary.monitor.distances[name][i], summary.monitor.p[name][i]
            cells.append(_cell(f"{distance:.3g} (p {p:.2g})", (name, column) in drifted))
        scores = summary.evidently.get(column, {})
        for method in methods:
            score, drift = scores.get(method, (np.nan, False))
            cells.append(_cell("" if np.isnan(score) else f"{score:.3g}", drift))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table>"


def _drifted_first(summary: Summary) -> list[tuple[int, str]]:
    drifted, evidently = summary.drifted(), summary.drifted_by_evidently()
    return sorted(
        enumerate(summary.columns), key=lambda c: (c[1] not in drifted, c[1] not in evidently)
    )


def _cell(text: str, drift: bool) -> str:
    return f'<td class="drift">{text}</td>' if drift else f"<td>{text}</td>"


def _evidently(reference: Reference, window: Floats, title: str) -> tuple[Evidently, bytes]:
    """Evidently's verdicts, and its page."""
    # It takes seconds to import, and nothing else here needs it; its imports raise warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from evidently import Report
        from evidently.metrics import ValueDrift

    names = list(reference.names)
    known = pd.DataFrame(reference.sample, columns=names)
    seen = pd.DataFrame(window, columns=names)
    filled = [name for name in names if known[name].notna().any() and seen[name].notna().any()]
    methods = [one.evidently for one in STATISTICS.all().values() if one.evidently]
    metrics = [ValueDrift(column=name, method=method) for name in filled for method in methods]
    report = Report(metrics, metadata={"title": title}, include_tests=True)
    done = report.run(seen[filled], known[filled])
    results = list(done.metric_results.values())
    verdicts: dict[str, dict[str, tuple[float, bool]]] = {name: {} for name in filled}
    for metric, result in zip(metrics, results, strict=True):
        drift = any(test.status != "SUCCESS" for test in result.tests)
        verdicts[metric.column][metric.method] = (float(result.value), drift)
        for widget in result.widget:
            _shorten_widget(widget)
    return verdicts, done.get_html_str(as_iframe=False).encode()


def _shorten_widget(widget: Any) -> None:
    """Round what a widget of Evidently's plots, and those inside it."""
    widget.params = _rounded(widget.params)
    for inner in [*widget.widgets, *(tab.widget for tab in widget.tabs)]:
        _shorten_widget(inner)


def _rounded(value: Any) -> Any:
    """Numbers of `_DIGITS` digits, at any depth.

    >>> _rounded({"x": [0.123456789, 2], "name": "y"})
    {'x': [0.12346, 2], 'name': 'y'}
    """
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
