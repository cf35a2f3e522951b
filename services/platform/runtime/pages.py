"""Pages for people: `/` lists what a service shows, `/docs` is its API in Swagger UI.

Swagger UI's files come from the package fastapi-offline and not from a CDN, so that the page works
without internet access.
"""

from html import escape
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_ASSETS = "/docs/assets"
_LINKS = {
    "/docs": "the API, to read and to try",
    "/readyz": "whether the service can answer, and what that depends on",
    "/metrics": "Prometheus metrics",
    "/reports/newest": "the newest drift report",
}


def add_pages(app: FastAPI) -> None:
    """Add `/` and `/docs`. The app must be made with `docs_url=None`."""
    home_page = _home_page(app.title, app.summary or "")
    docs_page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    )
    app.mount(_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")))

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(home_page)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return docs_page


def _home_page(title: str, summary: str) -> str:
    lines = "".join(
        f'<li><a href="{path}">{path}</a>: {escape(text)}</li>' for path, text in _LINKS.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(summary)}</p><ul>{lines}</ul></body></html>"
    )
