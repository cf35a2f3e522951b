"""The drift report: its summary comes first, names are escaped, and it stays below 2 MB."""

import base64
import gzip
import re

import numpy as np
import pytest

from monitoring.reference import Reference
from monitoring.report import write

NAMES = ("amount", "<b>odd & name</b>", "gone", *(f"column_{n}" for n in range(17)), "score")
ROWS = 5_000
MAX_BYTES = 2_000_000


def rows(rng, count, drifted=False):
    made = rng.lognormal(size=(count, len(NAMES)))
    made[rng.random(count) < 0.3, 1] = np.nan
    if drifted:
        made[:, 0] += 1.0
        made[:, 2] = np.nan
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    reference = Reference.of(NAMES, rows(rng, 10_000), [rows(rng, ROWS) for _ in range(12)])
    path = tmp_path_factory.mktemp("reports") / "deep" / "report.html"
    write(reference, rows(rng, ROWS, drifted=True), "fraud & <co>, version 3", path)
    assert path.stat().st_size < MAX_BYTES
    return path.read_text()


def embedded(page):
    data = re.search(r'<script id="compressed" type="text/plain">([^<]+)</script>', page)[1]
    return gzip.decompress(base64.b64decode(data)).decode()


@pytest.mark.slow
def test_the_summary_comes_first_with_both_verdicts(page):
    body = page[page.index("<body>") :]
    summary = body[: body.index("<iframe")]
    assert re.sub(r"\s", "", body).startswith("<body><main><h1>fraud&amp;&lt;co&gt;,version3</h1>")
    assert "windows of about 5,000 decisions" in summary
    ours = re.search(r"Drifted by the monitor.*?</p>", summary)[0]
    theirs = re.search(r"Drifted by Evidently.*?</p>", summary)[0]
    assert "amount (ks, psi)" in ours
    assert "gone (ks, missing, psi)" in ours
    assert "amount" in theirs
    assert "column_3" not in ours
    lines = re.findall(r"<tr>.*?</tr>", summary)
    assert len(lines) == 1 + len(NAMES)
    assert lines[1].startswith("<tr><td>amount</td>")
    assert re.search(r'<td class="drift">0\.\d+ \(p \d\.?\d*e-\d+\)</td>', lines[1])


def test_names_are_escaped(page):
    assert "&lt;b&gt;odd &amp; name&lt;/b&gt;" in page
    assert "<b>odd" not in page


def test_evidentlys_report_is_below(page):
    evidently = embedded(page)
    assert "window.drawDashboard(" in evidently
    assert "Drift in column 'amount'" in evidently
    # A column without values has no histogram.
    assert "Drift in column 'gone'" not in evidently


def test_an_empty_window_is_refused(tmp_path):
    rng = np.random.default_rng(1)
    reference = Reference.of(NAMES, rows(rng, 200), [rows(rng, 50) for _ in range(8)])
    with pytest.raises(ValueError, match="empty"):
        write(reference, np.empty((0, len(NAMES))), "fraud", tmp_path / "report.html")
