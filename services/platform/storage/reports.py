"""Drift reports: written into the lake by whoever makes one, opened from a service's URL."""

from typing import Annotated

from fastapi import FastAPI, Path, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from services.platform.runtime.http import problem
from services.platform.storage.lake import Lake

NEWEST = "newest"


def report_path(design: str, name: str) -> str:
    """Where a report is, below the lake's bucket."""
    return f"reports/{design}/{name}.html"


def newest_report(lake: Lake, design: str) -> str | None:
    """Its name, for names are times. OSError if S3 does not answer."""
    files = lake.files(f"reports/{design}")
    return files[-1].rpartition("/")[2].removesuffix(".html") if files else None


def add_reports(app: FastAPI, design: str, lake: Lake) -> None:
    """Add `GET /reports/{name}`; `newest` leads to the newest."""

    @app.get("/reports/{name}", tags=["operations"], summary="A drift report", response_model=None)
    def report(name: Annotated[str, Path(pattern="^[0-9A-Za-z-]{1,40}$")]) -> Response:
        try:
            found = newest_report(lake, design) if name == NEWEST else name
            if found is None:
                return problem(404, f"no report yet: `whiteboard report {design}` makes one")
            if found != name:
                return RedirectResponse(f"/reports/{found}")
            return HTMLResponse(lake.get(report_path(design, name)))
        except FileNotFoundError:
            return problem(404, f"no report {name}")
        except OSError as error:
            return problem(503, f"the store does not answer: {error}")
