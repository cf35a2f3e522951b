"""Every design's app without its engines: a valid OpenAPI document, and pages that need no CDN."""

import re
from importlib import import_module

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.designs import DESIGNS
from services.platform.settings import settings
from tests.conformance.toy.design import TOY

LINKS = re.compile(r'(?:href|src)="([^"]+)"')


@pytest.fixture(params=[*DESIGNS, TOY], ids=str)
def app(request, tmp_path, monkeypatch):
    monkeypatch.setenv("WHITEBOARD_HOME", str(tmp_path))
    settings.cache_clear()
    module, _, factory = request.param.http.factory.partition(":")
    yield getattr(import_module(module), factory)()
    settings.cache_clear()


@pytest.fixture
async def client(app):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as made:
        yield made


async def test_openapi_is_valid(client):
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


async def test_every_operation_is_described(client):
    document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert all(response["description"] for response in operation["responses"].values())


async def test_the_docs_come_from_the_service_itself(client):
    page = await client.get("/docs")
    assert page.status_code == 200
    assets = LINKS.findall(page.text)
    assert len(assets) == 3
    for asset in assets:
        assert asset.startswith("/docs/assets/")
        answer = await client.get(asset)
        assert (answer.status_code, len(answer.content) > 1_000) == (200, True), asset
    assert "http" not in page.text
    assert "'/openapi.json'" in page.text or '"/openapi.json"' in page.text
    assert (await client.get("/redoc")).status_code == 404


async def test_the_home_page_leads_to_what_can_be_seen(app, client):
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert app.title in page.text
    links = LINKS.findall(page.text)
    assert links == ["/docs", "/readyz", "/metrics", "/reports/newest"]
    known = {"/docs", *app.openapi()["paths"]}
    assert set(links) - {"/reports/newest"} < known
    assert "/reports/{name}" in known


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/readyz", "/ping", "/metrics"])
async def test_head_answers_as_get_without_a_body(client, path):
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_other_methods_are_refused(client):
    answer = await client.post("/healthz")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
