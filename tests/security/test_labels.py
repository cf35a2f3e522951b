"""Attacks by labels, verdicts and marks of load tests, which train models; each must fail."""

import httpx
import pytest

from services.cv_inspection.ingestion.events import LABEL as CV_LABEL
from services.cv_inspection.ingestion.events import STREAM as CV_STREAM
from services.cv_inspection.serving.app import create_app as create_inspector
from services.fraud.ingestion.events import LABEL as FRAUD_LABEL
from services.fraud.ingestion.events import STREAM as FRAUD_STREAM
from services.fraud.ingestion.events import VERDICTS_STREAM, ReviewCase, Transaction
from services.fraud.review.queue import Lease
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.fraud.serving.app import create_app as create_scorer
from services.platform.runtime.tokens import SYNTHETIC, synthetic_headers
from services.platform.settings import Settings
from services.walkthrough.app import create_app as create_walkthrough
from services.walkthrough.token import page_token
from tests.integration.cv_inspection.inspections import stored_inspection

NEVER = "a" * 32


def asking(app, token: str) -> httpx.AsyncClient:
    """A client of an app, with a token."""
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


async def stored(nc, stream: str, subject: str = ">") -> int:
    info = await nc.jetstream().stream_info(stream, subjects_filter=subject)
    return sum((info.state.subjects or {}).values())


async def test_a_label_of_what_was_never_inspected_is_refused_even_with_the_token(config, nc):
    app = create_inspector(config)
    async with (
        app.router.lifespan_context(app),
        asking(app, config.plain_label_token) as client,
    ):
        made = await stored_inspection(nc, 1)
        for identity, status in ((NEVER, 404), (made, 202), (NEVER, 404)):
            body = {"inspection_id": identity, "label": "good"}
            answer = await client.post("/verdict", json=body)
            assert answer.status_code == status, answer.text
            assert (identity in answer.text) is (status == 404)
    assert await stored(nc, CV_STREAM, f"{CV_LABEL}.>") == 1


@pytest.mark.parametrize(
    ("design", "label", "stream", "subject"),
    [("cv", "good", CV_STREAM, CV_LABEL), ("fraud", "fraud", FRAUD_STREAM, FRAUD_LABEL)],
)
async def test_the_page_labels_nothing_that_was_not_decided(
    config, nc, design, label, stream, subject
):
    await stored_inspection(nc, 1)
    async with asking(create_walkthrough(config), page_token(config)) as client:
        body = {"id": NEVER, "label": label}
        answer = await client.post(f"/api/label?design={design}", json=body)
    assert answer.status_code == 404, answer.text
    assert await stored(nc, stream, f"{subject}.>") == 0


@pytest.mark.parametrize(("design", "known"), [("cv", "good"), ("fraud", "fraud, genuine")])
async def test_the_page_says_which_words_are_labels(config, nc, design, known):
    made = await stored_inspection(nc, 1)
    async with asking(create_walkthrough(config), page_token(config)) as client:
        body = {"id": made, "label": "<b>burr</b>"}
        answer = await client.post(f"/api/label?design={design}", json=body)
    assert answer.status_code == 422, answer.text
    assert f"is not one of {known}" in answer.text


async def test_a_case_is_decided_by_its_own_lease_alone(config, nc):
    """Not without one, not with that of another case, not with one that is made up or changed."""
    token = "of-analysts"
    app = create_scorer(Settings(**{**dict(config), "analyst_token": token}))
    transaction = Transaction(**EXAMPLE_TRANSACTION)
    case = ReviewCase(decision_id=NEVER, score=0.3, otherwise="decline", transaction=transaction)
    lease = Lease(case=case, reply="x", until=9e9, waited_s=0.0)
    data, _, signature = lease.token(token).partition(".")
    async with asking(app, token) as client:
        for given, identity in (
            (lease.token(token), "b" * 32),
            (lease.token("another key"), NEVER),
            (f"{data}.{signature[:-1]}", NEVER),
            ("", NEVER),
        ):
            body = {"verdict": "genuine", "token": given}
            answer = await client.post(f"/reviews/{identity}", json=body)
            assert answer.status_code == 409, answer.text
    assert await stored(nc, VERDICTS_STREAM) == 0


@pytest.mark.parametrize("headers", [SYNTHETIC, synthetic_headers("wrong"), synthetic_headers("")])
async def test_monitors_are_not_told_to_look_away_without_the_token(config, nc, headers):
    app = create_scorer(config)
    async with app.router.lifespan_context(app), asking(app, "another") as client:
        answer = await client.post("/score", json=EXAMPLE_TRANSACTION, headers=headers)
    assert answer.status_code == 401
