"""Who may ask the page."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from services.platform.settings import Settings
from services.walkthrough.guard import Guard, security_headers
from services.walkthrough.token import page_token, page_url

OURS = "http://127.0.0.1:18090"
TOKEN = {"authorization": "Bearer secret"}


@pytest.fixture
def client():
    app = Guard(
        PlainTextResponse("answered"), frozenset({"127.0.0.1"}), "secret", security_headers("x")
    )
    return TestClient(app, base_url=OURS)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"host": "evil.example"}, 421),
        ("GET", {"host": "127.0.0.1.evil.example:18090"}, 421),
        ("GET", {"host": "[::bad"}, 421),
        ("GET", {"origin": "http://evil.example"}, 403),
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {}, 401),
        ("POST", {"authorization": "Bearer wrong"}, 401),
        ("POST", TOKEN, 200),
        ("POST", {**TOKEN, "origin": OURS}, 200),
        ("POST", {**TOKEN, "origin": "http://127.0.0.1:8000"}, 403),
        ("POST", {**TOKEN, "origin": "null"}, 403),
    ],
)
def test_only_our_own_page_is_answered(client, method, headers, status):
    answer = client.request(method, "/", headers=headers)
    assert answer.status_code == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path):
    config = Settings(home=tmp_path)
    token = page_token(config)
    assert page_token(config) == token
    assert (tmp_path / "secrets" / "walkthrough-token").stat().st_mode & 0o777 == 0o600
    assert page_url(config).endswith(f"/#token={token}")
    assert page_token(Settings(home=tmp_path, admin_token="chosen")) == "chosen"
