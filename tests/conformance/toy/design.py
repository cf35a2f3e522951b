"""The toy design's wiring."""

from services.platform.access import Access
from services.platform.design import DEFERRABLE_NICE, Design, HttpApp, Process
from services.platform.hooks import Problem

PACKAGE = "tests.conformance.toy"


def _problem():
    from tests.conformance.toy.problem import COST, LATENCY_BUDGET_MS

    return Problem(COST, LATENCY_BUDGET_MS)


def _bootstrap(config, seed, days, bar):
    return False


def _simulate(config, request, bar):
    return {"requests": 0, "failures": 0, "errors": {}}


def _train(config, candidate, seed, bar, folder):
    from tests.conformance.toy.retraining.plan import train

    return train(config, candidate, seed, bar)


def _retraining_spec():
    from tests.conformance.toy.retraining.plan import SPEC

    return SPEC


TOY = Design(
    name="toy",
    title="Parcels by weight",
    package=PACKAGE,
    http=HttpApp(
        "toy_service",
        f"{PACKAGE}.serving.app:create_app",
        "/weigh",
        18089,
        access=Access(publishes=("toy.>",), watches=("models",), loads=("lake",)),
    ),
    processes=(
        Process(
            "toy-shadow",
            f"{PACKAGE}.monitoring.shadow",
            9,
            DEFERRABLE_NICE,
            access=Access(
                consumes=("TOY_DECISIONS",),
                watches=("models",),
                loads=("lake",),
                stores=("lake/toy",),
            ),
        ),
    ),
    first_candidate="limit",
    traffic_rate=10.0,
    figures={"serving": lambda f: f"p95 {f['p95_ms']:.1f} ms"},
    problem=_problem,
    bootstrap=_bootstrap,
    simulate=_simulate,
    train=_train,
    retraining_spec=_retraining_spec,
)
