"""Attacks that a page of another site makes through a browser; each must fail."""

import httpx
import pytest
from fastapi import Response
from pydantic import BaseModel

from services.platform.runtime.http import DirectApp, RawRequest
from services.platform.settings import Settings
from services.platform.storage.reports import add_reports, newest_report, report_path


class Word(BaseModel):
    text: str


@pytest.fixture
def app() -> DirectApp:
    made = DirectApp(max_bytes=100, hosts=["scorer"])

    async def hot(_: RawRequest) -> Response:
        return Response("hot")

    made.add_direct("/hot", hot, Word)

    @made.get("/cold")
    async def read() -> str:
        return "cold"

    @made.post("/cold")
    async def write() -> str:
        return "written"

    return made


async def status(app: DirectApp, method: str, path: str, **headers: str) -> int:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await client.request(method, path, headers=sent)).status_code


ROUTES = [("POST", "/hot"), ("POST", "/cold"), ("GET", "/cold"), ("HEAD", "/cold")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:18080",
        "127.0.0.1.evil.example",
        "localhost.",
        "",
        "a b",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::1",
        "evil@127.0.0.1",
        "127.0.0.1\\evil",
        "127.0.0.1,evil",
    ],
)
async def test_a_name_that_resolves_to_us_is_not_ours(app, method, path, host):
    assert await status(app, method, path, host=host) == 421


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "host", ["127.0.0.1:18080", "localhost:18080", "LOCALHOST", "[::1]:18080", "scorer:8080"]
)
async def test_our_names_and_addresses_are_answered(app, method, path, host):
    assert await status(app, method, path, host=host) == 200


@pytest.mark.parametrize(("method", "path"), ROUTES[:2])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:2"},
        {"origin": "http://127.0.0.1:1.evil.example"}, {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)  # fmt: skip
async def test_another_site_changes_nothing(app, method, path, headers):
    assert await status(app, method, path, **headers) == 403


@pytest.mark.parametrize(("method", "path"), ROUTES[:2])
async def test_our_own_documentation_page_may_try_every_route(app, method, path):
    own = {"origin": "http://127.0.0.1:1", "sec_fetch_site": "same-origin"}
    assert await status(app, method, path, **own) == 200


def test_names_of_urls_and_of_the_setting_are_ours():
    made = Settings(scorer_url="http://scorer:8080", hosts="a.example, b.example")
    assert {"scorer", "a.example", "b.example"} <= made.host_names


class Store:
    """A store with a report of ours, and files that another program left there."""

    ours = report_path("fraud", "20260301T120000")

    def files(self, _: str) -> list[str]:
        return [self.ours, "reports/fraud/zz.html", "reports/fraud/20990101T000000.html.html"]

    def get(self, path: str) -> bytes:
        assert path == self.ours
        return b"<script>fetch('/admin/history')</script>"


async def test_a_report_reaches_nothing_and_only_our_names_are_served(app):
    add_reports(app, "fraud", Store())
    assert newest_report(Store(), "fraud") == "20260301T120000"
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/reports/newest", follow_redirects=True)
        policy = answer.headers["content-security-policy"]
        assert "sandbox allow-scripts;" in policy
        assert "default-src 'none'" in policy
        assert "connect-src" not in policy
        assert "allow-same-origin" not in policy
        for name in ("zz", "20990101T000000.html", "..%2Fx"):
            assert (await client.get(f"/reports/{name}")).status_code in (404, 422)
