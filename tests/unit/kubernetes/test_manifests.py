"""The manifests follow from the designs, a cluster would take them, and errors are found."""

from importlib import import_module

import pytest
import yaml

from infra.kubernetes.generate import FOLDER, files, write
from infra.kubernetes.names import SETTINGS, settings_values
from infra.kubernetes.pods import OPERATOR_LABEL, TRAINING_LABEL
from infra.kubernetes.sizes import WORKLOADS, workload
from services.cv_inspection.ingestion import events as cv_events
from services.cv_inspection.serving import worker as inspection_worker
from services.designs import DESIGNS
from services.platform.design import SCHEDULER, HttpApp
from services.platform.settings import Settings
from tests.conformance.toy.design import TOY
from tests.unit.kubernetes import checks
from tests.unit.kubernetes.conftest import rendered

pytestmark = pytest.mark.usefixtures("default_environment")

OLDEST, NEWEST = "1.32", "1.37"


@pytest.fixture(scope="session")
def routes():
    """By service, the routes of its app."""
    apps = {}
    for http in (design.http for design in DESIGNS):
        module, _, factory = http.factory.partition(":")
        apps[http.name] = set(getattr(import_module(module), factory)().openapi()["paths"])
    return apps


def defaults(**changes):
    return Settings.model_construct(**changes)


def test_what_is_committed_is_up_to_date():
    made = files(defaults())
    committed = {
        str(path.relative_to(FOLDER)): path.read_text()
        for path in (*FOLDER.glob("base/*.yaml"), *(FOLDER / name for name in made))
    }
    assert committed == made, "run `make kubernetes`"


def test_writing_removes_what_is_no_longer_generated(tmp_path):
    write(tmp_path, {"base/old.yaml": "1"})
    write(tmp_path, {"base/new.yaml": "2", "overlays/local/x.yaml": "3"})
    assert sorted(path.name for path in tmp_path.rglob("*.yaml")) == ["new.yaml", "x.yaml"]


def test_kubernetes_would_take_them(objects, variant):
    version = OLDEST if variant == "base" else NEWEST
    assert checks.schema_errors(objects, version) == []


def test_every_process_runs(objects, variant, every_process):
    # Simulated analysts have no place in production.
    missing = ["analysts"] if variant == "production" else []
    assert checks.missing_processes(objects, every_process) == missing


def test_production_keeps_each_stream_on_all_servers_of_nats():
    [settings] = [
        one["data"]
        for one in rendered("production")
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == SETTINGS
    ]
    values = (FOLDER / "engines" / "nats.values.yaml").read_text()
    servers = yaml.safe_load(values)["config"]["cluster"]["replicas"]
    replicas = settings["WHITEBOARD_NATS_REPLICAS"]
    assert Settings.model_validate({"nats_replicas": replicas}).nats_replicas == servers
    assert set(settings) > set(settings_values([d.http for d in DESIGNS], defaults()))


def test_they_are_sound(objects, every_process, routes):
    assert checks.unlimited(objects) == []
    assert checks.insecure(objects) == []
    assert checks.wrong_probes(objects, every_process, routes) == []
    assert checks.unguarded(objects) == []
    assert checks.dangling(objects) == []


def test_names_are_unique(objects):
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
             for one in objects]  # fmt: skip
    assert len(set(names)) == len(names)


def test_each_pod_reads_the_secrets_of_its_account_alone(objects, every_process):
    tokens = {process.name: process.access.tokens for _, process in every_process}
    for title, template in checks.pods(objects):
        labels = template["metadata"]["labels"]
        found = {
            source["secret"]["name"].removeprefix("account-")
            for volume in template["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
        }
        name = labels["app.kubernetes.io/name"]
        expected = {name, "promotion-key.public"} if name in tokens else set()
        if OPERATOR_LABEL.items() <= labels.items():
            expected |= {"operator", "promotion-key.public"}
            promotes = TRAINING_LABEL.items() <= labels.items()
            expected |= {"promotion-key"} if promotes else {"client-token", "label-token"}
        mounted = {"webhook_token", "label_token", "client_token"} & set(tokens.get(name, ()))
        expected |= {token.replace("_", "-") for token in mounted}
        assert found == expected, title


def test_passwords_are_in_no_manifest(objects):
    assert not [one for one in objects if one["kind"] == "Secret"]
    for title, container in checks.containers(objects):
        names = {one["name"] for one in container.get("env", []) if "value" in one}
        assert not [name for name in names if "PASSWORD" in name or "TOKEN" in name], title


def test_a_stream_s_single_owner_is_a_stateful_set_and_the_rest_scales(base):
    kinds = {one["metadata"]["name"]: one["kind"] for one in base
             if one["kind"] in ("Deployment", "StatefulSet")}  # fmt: skip
    for name, plan in WORKLOADS.items():
        assert kinds[name] == ("Deployment" if plan.scaling == "any" else "StatefulSet")
    scaled = {one["kind"]: one["spec"] for one in base if one["kind"] == "ScaledObject"}
    metadata = scaled["ScaledObject"]["triggers"][0]["metadata"]
    assert metadata["stream"] == cv_events.STREAM
    assert metadata["consumer"] == inspection_worker.DURABLE


def feature_workers(objects):
    """Replicas of the feature worker, its arguments, and its environment."""
    [one] = [one for one in objects if one["kind"] == "StatefulSet"
             and one["metadata"]["name"] == "feature-worker"]  # fmt: skip
    [container] = one["spec"]["template"]["spec"]["containers"]
    return one["spec"]["replicas"], container["command"][5:], container["env"]


@pytest.mark.parametrize(("variant", "count"), [("local", 1), ("production", 4)],
                         indirect=["variant"])  # fmt: skip
def test_feature_workers_share_the_rows(objects, count):
    replicas, arguments, environment = feature_workers(objects)
    values = {one["name"]: one.get("value") for one in environment}
    assert (replicas, values["WORKERS"]) == (count, str(count))
    worker = import_module("services.fraud.features.worker")
    for number in range(replicas):
        given = [a.replace("$(WORKERS)", values["WORKERS"]).replace("$(WORKER)", str(number))
                 for a in arguments]  # fmt: skip
        options = worker.parse_arguments(defaults(), given)
        assert options == {"worker": number, "workers": count}


def test_the_settings_are_settings(base):
    [settings] = [one for one in base if one["kind"] == "ConfigMap"]
    known = {f"WHITEBOARD_{name.upper()}" for name in Settings.model_fields}
    apps = {design.http.name.upper() for design in DESIGNS}
    known |= {f"WHITEBOARD_{app}_{key}" for app in apps for key in ("PORT", "URL")}
    assert set(settings["data"]) <= known
    values = {name.removeprefix("WHITEBOARD_").lower(): value
              for name, value in settings["data"].items()}  # fmt: skip
    config = Settings(**values)
    assert config.local_engines == ()
    assert "inspector.whiteboard" in config.host_names
    assert config.nats.endswith("@nats.whiteboard-engines:4222")
    for design in DESIGNS:
        assert design.http.url(config) == f"http://{design.http.name}:8080"


def test_a_process_without_a_size_is_refused():
    with pytest.raises(KeyError, match=r"no size for 'toy': add it to infra/kubernetes/sizes.py"):
        workload("toy")
    with pytest.raises(KeyError, match="no size"):
        files(defaults(designs="tests.conformance.registry"))


def test_requests_keep_the_order_of_the_nice_values(every_process):
    by_nice = {}
    for _, process in every_process:
        if process is not SCHEDULER:  # it trains
            by_nice.setdefault(process.nice, []).append(workload(process.name).size.cpu)
    assert min(by_nice[0]) >= max(by_nice[10])
    for plan in WORKLOADS.values():
        assert plan.size.cpu <= plan.size.cpu_limit
        assert plan.size.memory <= plan.size.memory_limit
        assert plan.size.source


def drop(objects, name):
    objects[:] = [one for one in objects if one["metadata"]["name"] != name]


def first(objects, kind, name):
    return next(one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name))


def main_container(objects, kind, name):
    return first(objects, kind, name)["spec"]["template"]["spec"]["containers"][0]


def test_a_removed_process_is_found(base, every_process):
    drop(base, "reasons")
    assert checks.missing_processes(base, every_process) == ["reasons"]


def test_a_process_of_a_new_design_is_found(base, every_process):
    assert isinstance(TOY.http, HttpApp)
    missing = checks.missing_processes(base, [*every_process, (TOY.name, TOY.http)])
    assert missing == [TOY.http.name]


def test_a_container_without_limits_is_found(base):
    del main_container(base, "StatefulSet", "shadow")["resources"]["limits"]["memory"]
    assert checks.unlimited(base) == ["StatefulSet shadow: no limits of memory"]


@pytest.mark.parametrize(
    ("where", "change", "found"),
    [
        ("container", {"privileged": True}, "privileged"),
        ("container", {"readOnlyRootFilesystem": False}, "root file system"),
        ("container", {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}, "capabilities"),
        ("container", {"runAsUser": 0}, "root"),
        ("pod", {"runAsNonRoot": False}, "root"),
        ("pod", {"seccompProfile": {"type": "Unconfined"}}, "seccomp"),
    ],
)
def test_a_pod_that_the_standard_forbids_is_found(base, where, change, found):
    pod = first(base, "Deployment", "scorer")["spec"]["template"]["spec"]
    (pod if where == "pod" else pod["containers"][0])["securityContext"] |= change
    assert checks.insecure(base) == [f"Deployment scorer: {found}"]


def test_a_probe_of_a_route_that_is_not_there_is_found(base, every_process, routes):
    probe = main_container(base, "Deployment", "inspector")["readinessProbe"]
    probe["httpGet"]["path"] = "/ready"
    probe = main_container(base, "StatefulSet", "monitor")["livenessProbe"]
    probe["httpGet"]["path"] = "/healthz"
    found = checks.wrong_probes(base, every_process, routes)
    assert sorted(found) == ["Deployment inspector: readinessProbe",
                             "StatefulSet monitor: livenessProbe"]  # fmt: skip


def test_a_missing_budget_and_one_that_blocks_drains_are_found(base):
    base.remove(first(base, "PodDisruptionBudget", "scorer"))
    assert checks.unguarded(base) == ["Deployment scorer"]
    first(base, "PodDisruptionBudget", "inspector")["spec"]["maxUnavailable"] = 0
    assert len(checks.unguarded(base)) == 2


def test_a_reference_to_nothing_is_found(base):
    autoscaler = first(base, "HorizontalPodAutoscaler", "scorer")
    autoscaler["spec"]["scaleTargetRef"]["name"] = "scorers"
    first(base, "Service", "inspector")["spec"]["selector"]["app.kubernetes.io/name"] = "x"
    assert checks.dangling(base) == ["HorizontalPodAutoscaler scorer: scorers",
                                     "Service inspector: selects no pod"]  # fmt: skip


def test_a_misspelt_field_is_found(base):
    main_container(base, "Deployment", "scorer")["readynessProbe"] = {}
    scaled = first(base, "ScaledObject", "inspection-worker")
    scaled["spec"]["minReplicas"] = 1
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    trigger["lagThreshold"] = 140
    [found] = checks.schema_errors([first(base, "Deployment", "scorer")], NEWEST)
    assert "readynessProbe" in found
    assert len(checks.schema_errors([scaled], NEWEST)) == 1
    del scaled["spec"]["minReplicas"]
    [found] = checks.schema_errors([scaled], NEWEST)
    assert "140 is not of type" in found
