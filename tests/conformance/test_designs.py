"""Every design holds to the contract; Compose, Prometheus and the signals follow from it."""

from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from services.cli.secrets import PAGE
from services.designs import DESIGNS
from services.platform.design import (
    DEFERRABLE_NICE,
    SCHEDULER,
    SHARED_PROCESSES,
    STEPS,
    WALKTHROUGH,
    WORKER_NICE,
    HttpApp,
)
from services.platform.diagram import ENGINES
from services.platform.run import SHARED
from services.platform.settings import Settings
from tests.conformance.toy.design import TOY

pytestmark = pytest.mark.usefixtures("default_environment")

ROOT = Path(__file__).resolve().parents[2]
EVERY = [*DESIGNS, TOY]
PROCESSES = [(d.name, p) for d in DESIGNS for p in d.everything] + [(SHARED, SCHEDULER)]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
# The kernel's weight of a nice value: 1024 of 0, a tenth, a hundredth and a half.
CPU_SHARES = {0: 1024, WORKER_NICE: 110, DEFERRABLE_NICE: 15}
# Every service listens here in its container.
HTTP_PORT = 8080
HOOKS = ("problem", "bootstrap", "simulate", "train", "retraining_spec", "compare", "newest",
         "benchmark_drifts", "evaluate", "demo", "audit", "damage", "walkthrough")  # fmt: skip

each_design = pytest.mark.parametrize("design", EVERY, ids=str)
each_process = pytest.mark.parametrize(("owner", "process"), PROCESSES, ids=lambda p: str(p)[:40])


@each_design
def test_it_has_eight_steps_with_folders_and_stories(design):
    steps = design.steps({})
    assert [step.title for step in steps] == [title for _, title in STEPS]
    for step in steps[:7]:
        assert step.built, step.title
    for step in (step for step in steps if step.built):
        assert step.decision, step.title
        assert step.why, step.title
        path = ROOT / step.file
        assert path.is_file() if step.number == 1 else path.is_dir(), step.title


@each_design
def test_its_figures_word_what_the_demo_measured(design):
    names = {name for step, _ in STEPS for name in step}
    assert set(design.figures) <= names
    for figure in design.figures.values():
        try:
            assert "not measured yet" in figure({})
        except KeyError:
            continue  # `steps` words it
    assert "not measured yet" in {s.title: s for s in design.steps({})}["Serving"].figure


@each_design
def test_its_processes_can_be_imported_and_have_a_main(design):
    for process in design.processes:
        module = import_module(process.module)
        assert callable(module.main), process.module
        assert process.nice in (WORKER_NICE, DEFERRABLE_NICE)


@each_design
def test_its_route_is_in_its_app(design):
    module, _, factory = design.http.factory.partition(":")
    app = getattr(import_module(module), factory)()
    assert {design.http.route, "/healthz", "/readyz", "/metrics"} <= set(app.openapi()["paths"])


@each_design
def test_its_hooks_are_functions_and_agree_with_its_steps(design):
    for name in HOOKS:
        assert getattr(design, name) is None or callable(getattr(design, name)), name
    problem, spec = design.problem(), design.retraining_spec()
    assert spec.design == design.name
    assert spec.route == design.http.route
    assert spec.budget_ms == problem.latency_budget_ms
    assert spec.costs.__self__ == problem.cost
    assert design.first_candidate in spec.candidates.all()
    assert spec.url(Settings())


@each_design
def test_what_it_names_exists(design):
    if design.benchmark_drifts is not None:
        module = import_module(f"{design.package}.evaluation.drift_benchmark")
        assert tuple(module.DRIFTS) == design.drifts
    if design.load_rate:
        assert (ROOT / "loadtest" / f"{design.name}.py").exists()
    assert bool(design.protocol) is (design.evaluate is not None)
    for command in design.commands:
        assert find_spec(f"services.cli.{command}") is not None


def test_every_hook_is_checked():
    assert set(HOOKS) < {field.name for field in fields(TOY)}


def test_names_and_ports_are_unique():
    every = [process for design in EVERY for process in design.everything] + [*SHARED_PROCESSES]
    for values in (
        [design.name for design in EVERY],
        [process.name for process in every],
        [process.port(Settings()) for process in every],
    ):
        assert len(set(values)) == len(values)


def test_ports_stay():
    ports = {process.name: process.port(Settings()) for _, process in PROCESSES}
    assert ports == {
        "scorer": 18080, "feature-worker": 18100, "lake-writer": 18101, "shadow": 18102,
        "monitor": 18107, "reasons": 18112, "review-desk": 18130, "analysts": 18131,
        "inspector": 18081, "inspection-worker": 18104, "cv-lake-writer": 18105,
        "cv-shadow": 18106, "cv-monitor": 18108, "scheduler": 18103,
    }  # fmt: skip


@each_process
def test_compose_runs_it(owner, process):
    service = COMPOSE[process.name]
    command = list(service["command"])
    if process is SCHEDULER:
        # Its children train at its nice value; between containers shares count.
        assert command[:3] == ["nice", "-n", str(DEFERRABLE_NICE)]
        command = command[3:-1]
    own = ["python", "-m", "services.platform.run", owner, process.name]
    shared = getattr(process, "instances", None) is not None
    several = sum(name.startswith(f"{process.name}-") for name in COMPOSE) + 1
    workers = ["--workers", "${WHITEBOARD_FEATURE_WORKERS:-1}", "--at-most", str(several)]
    assert command == [*own, *(workers if shared else [])]
    assert service.get("cpu_shares", 1024) == CPU_SHARES[process.nice]
    assert service["healthcheck"]["test"][2] == str(container_port(process))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_compose_runs_those_that_share_its_work(number):
    [(owner, process)] = [one for one in PROCESSES if getattr(one[1], "instances", None)]
    port = process.port(Settings(), number)
    service, first = COMPOSE[process.instance(number)], COMPOSE[process.name]
    run = ["python", "-m", "services.platform.run", "--port", str(port), owner, process.name]
    assert service["command"] == [*run, "--worker", str(number)]
    assert service["healthcheck"]["test"][2] == str(port)
    assert service["profiles"] == ["feature-workers"]
    same = set(first) - {"command", "healthcheck"}
    assert {key: service[key] for key in same} == {key: first[key] for key in same}


@each_process
def test_a_container_is_on_the_networks_that_it_needs(owner, process):
    access = process.access
    needs = {
        "nats": access.nats_publish or access.listens,
        "redis": access.redis,
        "store": access.loads or access.stores,
        "http": isinstance(process, HttpApp),
        "metrics": True,
    }
    found = set(COMPOSE[process.name]["networks"])
    # The scheduler's jobs are commands, which reach everything.
    assert found == {name for name, needed in needs.items() if needed} or process is SCHEDULER


def test_who_simulates_or_watches_reaches_no_store_of_features():
    for name in ("simulator", "stations", "load", "prometheus"):
        assert not {"redis", "registry"} & set(COMPOSE[name]["networks"])
    assert COMPOSE["redis"]["networks"] == ["redis"]
    assert COMPOSE["mlflow"]["networks"] == ["registry"]


def test_compose_runs_the_page():
    service, port = COMPOSE[WALKTHROUGH.name], WALKTHROUGH.default_port
    run = ["python", "-m", "services.platform.run", SHARED, WALKTHROUGH.name]
    assert service["command"] == run
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}" == PAGE


def test_prometheus_scrapes_them_all():
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())
    found = {
        job["job_name"]: [target for s in job["static_configs"] for target in s["targets"]]
        for job in config["scrape_configs"]
    }
    assert found == {p.name: [f"{p.name}:{container_port(p)}"] for _, p in PROCESSES}


def test_prometheus_scrapes_further_feature_workers_while_there_are_any():
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())
    [job] = [job for job in config["scrape_configs"] if "dns_sd_configs" in job]
    assert job["job_name"] == "feature-worker"
    found = [(name, sd["port"]) for sd in job["dns_sd_configs"] for name in sd["names"]]
    further = [name for name in COMPOSE if name.startswith("feature-worker-")]
    assert found == [
        (name, int(COMPOSE[name]["command"][COMPOSE[name]["command"].index("--port") + 1]))
        for name in further
    ]


def test_signals_name_them_all():
    signals = yaml.safe_load((ROOT / "monitoring" / "signals.yaml").read_text())
    named = {name for signal in signals for name in signal["services"]}
    assert named == {process.name for _, process in PROCESSES}


def test_containers_know_where_the_services_are():
    environment = COMPOSE["scorer"]["environment"]
    for design in DESIGNS:
        name = design.http.name
        assert environment[f"WHITEBOARD_{name.upper()}_PORT"] == str(HTTP_PORT)
        assert environment[f"WHITEBOARD_{name.upper()}_URL"] == f"http://{name}:{HTTP_PORT}"
        [published] = COMPOSE[name]["ports"]
        assert published == f"127.0.0.1:{design.http.port(Settings())}:{HTTP_PORT}"


def test_the_image_serves_the_first_design():
    script = (ROOT / "infra" / "docker" / "serve").read_text()
    first = DESIGNS[0]
    assert f"python -m services.platform.run {first.name} {first.http.name}" in script
    setting = f"WHITEBOARD_{first.http.port_setting.upper()}"
    assert f'export {setting}="${{{setting}:-{HTTP_PORT}}}"' in script


def container_port(process):
    return HTTP_PORT if isinstance(process, HttpApp) else process.port(Settings())


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_the_diagram_shows_every_process(design):
    diagram = design.walkthrough().diagram
    drawn = {box.process for box in diagram.boxes if box.process}
    workers = {process.name for process in design.everything}
    assert workers | {SCHEDULER.name} <= drawn
    assert drawn <= workers | {SCHEDULER.name, *ENGINES}
    steps = {name for names, _ in STEPS for name in names}
    assert {box.step for box in diagram.boxes} <= steps
    ids = [box.id for box in diagram.boxes]
    assert len(set(ids)) == len(ids)
    assert {end for arrow in diagram.arrows for end in (arrow.source, arrow.target)} <= set(ids)


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_what_the_diagram_measures_is_a_signal(design):
    signals = yaml.safe_load((ROOT / "monitoring" / "signals.yaml").read_text())
    shown = {signal["name"]: signal["services"] for signal in signals}
    for measure in design.walkthrough().diagram.measures:
        if measure.source not in ENGINES:
            assert measure.source in shown[measure.metric], measure
