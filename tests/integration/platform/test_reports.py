"""Reports in the real store, served by URL."""

import httpx
import pytest

from services.platform.runtime.http import DirectApp
from services.platform.storage.lake import Lake
from services.platform.storage.reports import add_reports, report_path

OLD, NEW = "20260301T120000", "20260302T120000"


@pytest.fixture
async def client(config):
    app = DirectApp(max_bytes=0)
    add_reports(app, "fraud", Lake(config))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
    ) as made:
        yield made
    Lake(config).remove(["reports"])


async def test_reports_are_served_by_name_and_the_newest_by_redirect(config, client):
    for name in (OLD, NEW):
        Lake(config).put(report_path("fraud", name), f"<html>{name}</html>".encode())
    newest = await client.get("/reports/newest", follow_redirects=True)
    assert newest.text == f"<html>{NEW}</html>"
    assert newest.headers["content-type"].startswith("text/html")
    head = await client.head("/reports/newest", follow_redirects=True)
    assert (head.headers, head.content) == (newest.headers, b"")
    assert (await client.get(f"/reports/{OLD}")).text == f"<html>{OLD}</html>"


async def test_a_missing_report_names_the_command_that_makes_one(client):
    answer = await client.get("/reports/newest")
    assert (answer.status_code, "whiteboard report fraud" in answer.text) == (404, True)
    assert (await client.get(f"/reports/{OLD}")).status_code == 404
    assert (await client.get("/reports/a.b")).status_code == 422
