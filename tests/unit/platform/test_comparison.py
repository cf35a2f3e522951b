import asyncio
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from services.platform.evaluation import comparison
from services.platform.evaluation.comparison import (
    Answer,
    CandidateResult,
    ComparedCandidate,
    ComparisonLabels,
    ComparisonSpec,
    average_runs,
    compare_candidates,
    interval,
    p95_ms,
    post_in_turn,
)
from services.platform.models.candidates import Candidate, CandidateRegistry


def test_interval_is_a_student_interval():
    """Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5)
    )


def test_interval_of_one_value_ignores_nan():
    assert interval([0.7, float("nan")]) == (0.7, 0.7)


def test_recalls_are_averaged_by_kind_of_positive():
    runs = [{"ap": 0.4, "recall_ring": 0.0}, {"ap": 0.6, "recall_ring": 1.0}]
    means = average_runs(runs)
    assert (means["ap"], means["recall"]) == (0.5, {"ring": 0.5})
    assert set(means["intervals"]) == {"ap", "recall_ring"}


async def _with_server(answer, client):
    async def handle(request: web.Request) -> web.Response:
        return await answer(request)

    app = web.Application()
    app.router.add_post("/{name}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        return await client(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")
    finally:
        await runner.cleanup()


async def test_services_are_called_in_turn_and_a_slow_one_is_measured():
    called = []

    async def answer(request):
        called.append(request.match_info["name"])
        await asyncio.sleep(0.02 if called[-1] == "slow" else 0.0)
        return web.Response()

    async def client(url):
        routes = {name: f"{url}/{name}" for name in ("fast", "slow")}
        return await post_in_turn(routes, [{"json": {}}] * 20, 1_000.0, lambda *_: None)

    answers = await _with_server(answer, client)
    assert called == ["fast", "slow"] * 20
    assert [len(of_service) for of_service in answers.values()] == [18, 18]
    assert min(one.seconds for one in answers["slow"]) >= 0.02
    assert p95_ms(answers["slow"]) >= 20
    assert "Date" in answers["fast"][0].headers


async def test_an_error_response_raises():
    async def answer(request):
        return web.Response(status=500)

    async def client(url):
        return await post_in_turn({"one": f"{url}/one"}, [{}], 10.0, lambda *_: None)

    with pytest.raises(aiohttp.ClientResponseError):
        await _with_server(answer, client)


@dataclass
class Result(CandidateResult):
    p95_ms: float = 0.0
    origin: str = ""


class Model:
    """Notes who was called, in turn."""

    called: list[str] = []  # noqa: RUF012

    def __init__(self, name):
        self._name = name

    def score(self, vectors, sets):
        Model.called.append(self._name)
        return np.zeros(len(vectors))


def registry(*names):
    found = CandidateRegistry("services.platform.evaluation")
    found._imported = True
    for name in names:
        found.register(type(name, (Candidate,), {"name": name, "role": f"role of {name}"}))
    return found


def test_all_candidates_get_the_data_of_each_seed_and_are_timed_in_turn(monkeypatch):
    """Means over seeds; the files of the last seed are served."""
    served = {}

    @contextmanager
    def serve(app, files):
        served.update(files)
        yield {name: f"http://{name}" for name in files}

    async def post(urls, posts, rate, step):
        assert urls == {"one": "http://one/route", "two": "http://two/route"}
        return {name: [Answer(0.01, {})] for name in urls}

    monkeypatch.setattr(comparison, "post_in_turn", post)
    spec = ComparisonSpec(
        result=Result,
        labels=ComparisonLabels(0.1, "cases", "cost", ("", ""), ("p95_ms", "p95")),
        data=lambda seed: 10 * seed,
        train=lambda name, seed, data: ComparedCandidate(
            {"ap": data + seed, "recall_ring": 1.0}, f"{name}{seed}".encode(), {"origin": name}
        ),
        read_model=lambda file: Model(file.decode()),
        inputs=lambda data: [(np.zeros((1, data)), {})] * 2,
        app="module:app", route="/route", posts=[{}], rate=1.0,
    )  # fmt: skip
    bar = lambda _: nullcontext(lambda *_: None)  # noqa: E731
    one, two = compare_candidates(spec, registry("two", "one"), [1, 3], bar, serve)
    assert served == {"one": b"one3", "two": b"two3"}
    assert Model.called == ["one3", "two3"] * 2
    assert (one.name, one.role, one.origin) == ("one", "role of one", "one")
    assert (two.ap, two.recall, two.p95_ms) == (22.0, {"ring": 1.0}, pytest.approx(10.0))
    assert two.onnx_p50_ms <= two.onnx_p99_ms
