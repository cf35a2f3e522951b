"""Attacks by those who reach a service, but are no client of it; each must fail."""

import httpx
import pytest

from services.cv_inspection.service import INSPECTOR
from services.cv_inspection.serving.app import create_app as create_inspector
from services.fraud.service import SCORER
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.fraud.serving.app import create_app as create_scorer
from services.platform.runtime.tokens import SYNTHETIC, client_headers
from services.platform.settings import Settings

ADMIN, ANALYST = "of-the-admin", "of-the-analyst"
DECISIONS = [
    (create_scorer, "POST", "/score"), (create_scorer, "POST", "/invocations"),
    (create_scorer, "POST", "/score?reasons=true"), (create_scorer, "GET", "/decisions/x"),
    (create_scorer, "HEAD", "/decisions/x"), (create_inspector, "POST", "/inspect"),
    (create_inspector, "POST", "/inspect/"), (create_inspector, "POST", "/inspect?line=a%20b"),
    (create_inspector, "POST", "/invocations"),
]  # fmt: skip
OTHERS = [
    (create_scorer, "GET", "/admin/history"), (create_scorer, "GET", "/reviews/next"),
    (create_inspector, "POST", "/verdict"), (create_inspector, "POST", "/events/s3"),
    (create_inspector, "GET", "/admin/history"),
]  # fmt: skip


@pytest.fixture
def away(config) -> Settings:
    """The installation, listening beyond loopback as in a container."""
    tokens = {"admin_token": ADMIN, "analyst_token": ANALYST}
    return Settings(**{**dict(config), **tokens, "host": "0.0.0.0"})


async def ask(app, method: str, path: str, **options) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.request(method, path, **options)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(("create", "method", "path"), DECISIONS)
async def test_beyond_loopback_nobody_decides_without_the_client_token(away, create, method, path):
    app = create(away)
    token = away.plain_client_token
    wrong = (
        "", token[:-1], f"{token} ", token.upper(), ADMIN, ANALYST, away.plain_webhook_token,
        away.plain_password,
    )  # fmt: skip
    for headers in ({}, {"Authorization": token}, {"Authorization": f"Basic {token}"},
                    SYNTHETIC, {"X-Forwarded-For": "127.0.0.1"}, *map(bearer, wrong)):  # fmt: skip
        answer = await ask(app, method, path, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
    allowed = await ask(app, method, path, headers=client_headers(away))
    assert allowed.status_code not in (401, 403)


async def test_no_body_is_read_of_a_request_without_the_token(away):
    async def endless():
        for _ in range(10):
            yield b"x" * 1_000
        pytest.fail("it was read")

    for create, path in ((create_scorer, SCORER.route), (create_inspector, INSPECTOR.route)):
        assert (await ask(create(away), "POST", path, content=endless())).status_code == 401


@pytest.mark.parametrize(("create", "method", "path"), OTHERS)
async def test_the_client_token_opens_no_other_route(away, create, method, path):
    answer = await ask(create(away), method, path, headers=client_headers(away), content=b"{}")
    assert answer.status_code == 401


async def test_the_client_token_marks_no_request_as_a_load_tests(away):
    app = create_scorer(away)
    async with app.router.lifespan_context(app):
        mark = {**SYNTHETIC, **client_headers(away)}
        answer = await ask(app, "POST", "/score", json=EXAMPLE_TRANSACTION, headers=mark)
        assert answer.status_code == 401
        assert "mark of a load test" in answer.text
        # A load test has one token: it asks for decisions, too.
        mark |= bearer(away.plain_label_token)
        answer = await ask(app, "POST", "/score", json=EXAMPLE_TRANSACTION, headers=mark)
        assert answer.status_code != 401


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_service_that_has_no_token_is_shut_beyond_loopback(config, tmp_path, token):
    """As an image that runs alone: nothing is open because nothing was configured."""
    alone = Settings(home=tmp_path, host="0.0.0.0", s3_port=config.s3_port)
    for create, method, path in DECISIONS:
        answer = await ask(create(alone), method, path, headers=bearer(token))
        assert answer.status_code == 401
        assert method == "HEAD" or "WHITEBOARD_CLIENT_TOKEN" in answer.text


@pytest.mark.parametrize(
    ("host", "asked", "wanted"),
    [
        ("127.0.0.1", "auto", False), ("127.0.0.1", "yes", True), ("0.0.0.0", "auto", True),
        ("::", "auto", True), ("10.1.2.3", "auto", True), ("scorer", "auto", True),
        ("0.0.0.0", "no", False), ("localhost", "auto", False), ("::1", "auto", False),
    ],
)  # fmt: skip
async def test_on_loopback_nothing_is_asked_unless_it_is_set(config, host, asked, wanted):
    made = Settings(**{**dict(config), "host": host, "require_tokens": asked})
    assert made.wants_client_token is wanted
    for create, path in ((create_scorer, "/decisions/x"), (create_inspector, INSPECTOR.route)):
        app = create(made)
        of = app.openapi()
        method = "GET" if path == "/decisions/x" else "POST"
        answer = await ask(app, method, path, headers=bearer("wrong"))
        assert (answer.status_code == 401) is wanted
        documented = of["paths"][path.replace("/x", "/{decision_id}")][method.lower()]
        assert (documented.get("security") == [{"ClientToken": []}]) is wanted
        assert ("ClientToken" in of["components"].get("securitySchemes", {})) is wanted
