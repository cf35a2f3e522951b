"""Schemathesis posts what each service's OpenAPI document allows, and what it does not."""

import subprocess
import sys

import pytest

from infra.local.apps import same_engines, serving
from services.cv_inspection.problem import DESIGN as CV
from services.cv_inspection.simulator.bootstrap import make_streams
from services.designs import DESIGNS
from services.fraud.problem import DESIGN as FRAUD
from services.fraud.simulator.bootstrap import create_streams
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.promotion_log import PromotionEvent, PromotionRecord, append_record
from services.platform.models.served_file import put_served
from services.platform.retraining.commands import CONTROL
from services.platform.runtime.tokens import SYNTHETIC
from services.platform.storage.lake import Lake
from services.platform.storage.reports import report_path
from services.platform.streaming.connection import connect, ensure_stream
from tests.unit.cv_inspection.vision_fixtures import cv_card

pytestmark = pytest.mark.e2e

EXAMPLES = 30
# The documents cannot say that times lie in a range, or that bytes are an image.
EXCLUDED_CHECK = "positive_data_acceptance"


@pytest.fixture
async def stores(config, onnx, vision_file):
    """The streams, a champion and a report of each design: no route lacks what it needs."""
    nc = await connect(config, "test")
    await create_streams(nc.jetstream(), last_seq=0)
    await make_streams(config)
    await ensure_stream(nc.jetstream(), CONTROL, ["control.>"])
    lake = Lake(config)
    champions = {FRAUD: onnx, CV: write_card(vision_file, cv_card())}
    for design, file in champions.items():
        put_served(config, file, design, CHAMPION, 1)
        lake.put(report_path(design, "20260301T120000"), b"<html></html>")
        record = PromotionRecord(
            at="2026-01-01T00:00:00Z", event=PromotionEvent.promoted, design=design, version=1,
            model="model:1", before=None, reasons=[],
        )  # fmt: skip
        await append_record(nc.jetstream(), record)
    await nc.close()


@pytest.mark.parametrize("design", DESIGNS, ids=str)
async def test_it_answers_as_documented(config, stores, tmp_path, design):
    token = config.plain_webhook_token
    names = ("WEBHOOK_TOKEN", "ADMIN_TOKEN", "ANALYST_TOKEN", "LABEL_TOKEN", "CLIENT_TOKEN")
    changed = {f"WHITEBOARD_{name}": token for name in names} | {
        "WHITEBOARD_HOME": str(tmp_path),
        "WHITEBOARD_REQUIRE_TOKENS": "yes",
    }
    headers = {**SYNTHETIC, "Authorization": f"Bearer {token}"}
    command = [
        sys.executable, "-m", "schemathesis.cli", "run",
        "--checks", "all", "--exclude-checks", EXCLUDED_CHECK, "--max-examples", str(EXAMPLES),
        "--seed", "1", "--generation-database", "none", "--no-color",
        *(option for header in headers.items() for option in ("--header", ":".join(header))),
    ]  # fmt: skip
    with serving({design.name: (design.http.factory, {**same_engines(config), **changed})}) as urls:
        url = f"{urls[design.name]}/openapi.json"
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
