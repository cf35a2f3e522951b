"""The page in a real browser: every view of both designs opens, with no error and no other host.

The engines are real and no process runs, so what only a running stack has is answered here. It
needs Playwright and Debian's Chromium: `infra/tools.sh browser` brings both.
`tests/e2e/test_page.py` clicks through a running stack.
"""

import json
import shutil
import threading
import time
from dataclasses import asdict
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn

from infra.local.engines import free_port
from services.designs import DESIGNS
from services.platform.evaluation.what_if import LoggedDecisions
from services.platform.walkthrough import DecisionView
from services.walkthrough.answers import DamageState, FaultReport
from services.walkthrough.app import create_app
from services.walkthrough.money import _state
from services.walkthrough.token import page_token

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium here: `infra/tools.sh browser`", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="`infra/tools.sh browser`")

VIEWS = ("diagram", "follow", "decisions", "money", "models", "drift", "load", "break")
READ = "() => !document.querySelector('#view').textContent.includes('Reading the ')"
EVIL = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def url(config):
    """The page's app, served on a port of its own."""
    port = free_port()
    options = {"host": "127.0.0.1", "port": port, "log_level": "error", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(create_app(config), **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    # A stream of the page's would be waited for.
    server.should_exit = server.force_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(config, url, browser):
    """The page, opened with its token; afterwards it had no error, and asked no other host."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    made = context.new_page()
    made.set_default_timeout(60_000)
    errors, hosts = [], set()
    made.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    for design in DESIGNS:
        answer(made, f"**/api/decisions?design={design.name}*", [asdict(decision(design))])
        answer(made, f"**/api/money?design={design.name}*", money(design))
    made.goto(f"{url}/#token={page_token(config)}", wait_until="domcontentloaded")
    made.get_by_text("live", exact=True).wait_for()
    yield made
    context.close()
    assert errors == []
    assert hosts == {urlsplit(url).netloc}


def answer(page, path, body):
    data = body if isinstance(body, str) else json.dumps(body)
    page.route(path, lambda route: route.fulfill(body=data, content_type="application/json"))


def decision(design):
    return DecisionView(
        id="0" * 32, at="2026-11-29T10:00:00Z", title=EVIL, decision="decline", stopped=True,
        score=0.9, threshold=0.5, model="m:1", reasons=(EVIL,), facts={EVIL: EVIL},
        labels=("good", "bad"),
    )  # fmt: skip


def money(design):
    view = design.walkthrough().money()
    present = {slider.name: slider.step for slider in view.sliders}
    values = np.linspace(0.01, 0.99, 50)
    slot = np.full(50, np.inf)
    logged = LoggedDecisions(values, np.full(50, 0.5), values * 1e4, slot, 1.0, {})
    return _state(view, logged, present, present).model_dump_json()


def go(page, design, view, box=""):
    address = "/".join(filter(None, (design, view, box)))
    page.evaluate(f"location.hash = '{address}'")
    page.wait_for_function(f"() => document.querySelector('#tab-views-{view}[aria-selected=true]')")


@pytest.mark.parametrize("design", [design.name for design in DESIGNS])
def test_every_view_and_a_box_open(page, design):
    go(page, design, "diagram")
    for view in VIEWS:
        page.locator(f"#tab-views-{view}").click()
        page.wait_for_function(READ)
        assert page.locator("#view").inner_text().strip(), view
        page.locator("#view :is(h2, .box)").first.wait_for()
        assert page.locator("#view .bad").count() == 0, view
    go(page, design, "diagram", "nats")
    assert "NATS" in page.locator(".panel h2").inner_text()


def test_a_fault_is_reported_with_what_it_lost_and_text_is_never_markup(page):
    report = FaultReport(
        process="redis", kind="kill", phase="counting", expected="", answers=40, degraded=20
    )
    damage = DamageState(came_in=40, unanswered=3, degraded=20, lost=2, doubled=1, compared=37,
                         skewed=5, eur=12.5, said=[EVIL])  # fmt: skip
    done = report.model_copy(update={"phase": "done", "damage": damage})
    reports = iter((report, done))
    page.route("**/api/fault*", lambda route: route.fulfill(
        body=(report if route.request.method == "POST" else next(reports)).model_dump_json(),
        content_type="application/json",
    ))  # fmt: skip
    go(page, "fraud", "break")
    card = page.locator("article", has=page.get_by_role("heading", name="Redis online store"))
    card.get_by_role("button", name="Kill").click()
    card.get_by_text("counted once the lake has everything").wait_for()
    card.get_by_text("redis, kill: done").wait_for()
    names, values = (card.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
    shown = dict(zip(names, values, strict=True))
    assert shown["came in"] == "40, 3 unanswered"
    assert (shown["lost"], shown["doubled"]) == ("2", "1")
    assert shown["skewed"] == "5 of 37 computed again"
    assert shown["EUR it cost"] == "12.50"
    assert card.get_by_text(EVIL).count() == 1
    assert page.locator("#view img").count() == 0
    go(page, "fraud", "decisions")
    page.locator("#view h3", has_text=EVIL).wait_for()
    assert "broken" not in page.title()
