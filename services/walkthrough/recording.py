"""A recording: the page, its scripts and what it showed, in one HTML file."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

STATIC = Path(__file__).parent / "static"
_STYLE = '<link rel="stylesheet" href="style.css">'
_ICON = re.compile(r"<link rel=\"icon\"[^>]*>\n")
_MODULES = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)
_MAIN = '<script type="module" src="/app.js"></script>'


def page(designs: Mapping[str, object], ticks: Sequence[Mapping[str, object]], at: str) -> str:
    """The HTML of a recording.

    Args:
        designs: As `/api/designs` answers.
        ticks: As `/api/stream` sends them, one a second.
        at: When it was recorded, ISO 8601.
    """
    html = (STATIC / "index.html").read_text()
    found = _MODULES.search(html)
    assert found is not None
    modules = json.loads(found[1])["imports"]
    inline = {name: _data_url(path.lstrip("/")) for name, path in modules.items()}
    held = {"at": at, "answers": {"/api/designs": designs}, "ticks": ticks}
    data = json.dumps(_short(held), separators=(",", ":")).replace("<", "\\u003c")
    importmap = f'<script type="importmap">{json.dumps({"imports": inline})}</script>'
    recording = f'<script type="application/json" id="recording">{data}</script>'
    main = f'{recording}\n<script type="module">{(STATIC / "app.js").read_text()}</script>'
    html = _ICON.sub("", html).replace(found[0], importmap).replace(_MAIN, main)
    return html.replace(_STYLE, f"<style>\n{(STATIC / 'style.css').read_text()}</style>")


def _data_url(file: str) -> str:
    encoded = base64.b64encode((STATIC / file).read_bytes()).decode()
    return f"data:text/javascript;base64,{encoded}"


def _short(value: object) -> object:
    """Numbers with four significant digits: a recording is looked at, not computed with."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_short(one) for one in value]
    return value
