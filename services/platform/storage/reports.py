"""Drift reports: stored in the lake, and served by a design's HTTP service."""

import re
from typing import Annotated, Any

from fastapi import FastAPI, Path, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from services.platform.runtime.http import error_response, error_responses
from services.platform.storage.lake import Lake

NEWEST = "newest"
# Reports that `whiteboard report` and the monitors wrote; what else lies there is not served.
_OURS = re.compile(r"/(\d{8}T\d{6})\.html$")
# A report's scripts draw its figures. They get an origin of their own, and reach nothing.
_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}


def report_path(design: str, name: str) -> str:
    """Object of a report in the lake's bucket."""
    return f"reports/{design}/{name}.html"


def newest_report(lake: Lake, design: str) -> str | None:
    """Name of the newest report; None without any. OSError if S3 does not answer."""
    files = lake.files(f"reports/{design}")  # sorted, and a report's name is its time
    ours = [found[1] for file in files if (found := _OURS.search(file))]
    return ours[-1] if ours else None


def add_reports(app: FastAPI, design: str, lake: Lake) -> None:
    """Add `GET /reports/{name}`; the name `newest` redirects to the newest one."""
    responses: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/html": {"schema": {"type": "string"}}}},
        307: {"description": "Of `newest`: where the newest report is"},
        **error_responses({404: "No such report", 503: "The store does not answer"}),
    }

    # `Response` has no media type of its own: a report is HTML, an error is JSON.
    @app.get(
        "/reports/{name}",
        tags=["operations"],
        summary="Drift report",
        response_class=Response,
        responses=responses,
    )
    def report(
        name: Annotated[str, Path(pattern=r"^(\d{8}T\d{6}|newest)$", examples=[NEWEST])],
    ) -> Response:
        try:
            existing = newest_report(lake, design) if name == NEWEST else name
            if existing is None:
                return error_response(404, f"no report yet: `whiteboard report {design}` makes one")
            if existing != name:
                return RedirectResponse(f"/reports/{existing}")
            return HTMLResponse(lake.get(report_path(design, name)), headers=_HEADERS)
        except FileNotFoundError:
            return error_response(404, f"no report {name}")
        except OSError as error:
            return error_response(503, f"the store does not answer: {error}")
