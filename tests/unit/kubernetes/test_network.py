"""Connections that the network policies let through are those that `Access` declares, no more."""

from dataclasses import fields

import pytest

from infra.kubernetes.network import CLIENTS, ENGINES, METRICS, engines_of
from infra.kubernetes.pods import OPERATOR_LABEL, TRAINING_LABEL
from services.designs import DESIGNS
from services.platform.access import Access
from services.platform.design import HttpApp
from tests.unit.kubernetes import checks
from tests.unit.kubernetes.reach import Peer, connections

pytestmark = pytest.mark.usefixtures("default_environment")

OURS, THEIRS = "whiteboard", "whiteboard-engines"
FIELDS = {
    "redis": {"redis"},
    "seaweedfs": {"loads", "stores"},
    "nats": {"publishes", "listens", "consumes", "reads", "makes", "deletes", "watches", "keeps",
             "downloads"},
}  # fmt: skip
NATS, REDIS = ("nats", 4222), ("redis", 6379)
S3 = ("seaweedfs", 8333)
FILER = Peer(
    "filer",
    THEIRS,
    {"app.kubernetes.io/name": "seaweedfs", "app.kubernetes.io/component": "filer"},
    (8888,),
)
OUTSIDE = [
    Peer("gateway", "gateway", {}, namespace_labels=CLIENTS),
    Peer("prometheus", "prometheus", {}, namespace_labels=METRICS),
    Peer("keda", "keda", {}),
    Peer("stranger", "default", {}),
    # A pod that a person starts in our namespace.
    Peer("shell", OURS, {"app.kubernetes.io/name": "shell"}),
    Peer("names", "kube-system", {"k8s-app": "kube-dns"}, (53,)),
]


def engine_peers():
    more = {"nats": (8222,), "redis": (), "seaweedfs": ()}
    return [
        *(Peer(name, THEIRS, dict(labels), (port, *more[name]))
          for name, (labels, port) in ENGINES.items()),
        FILER,
    ]  # fmt: skip


def our_peers(objects):
    made = []
    for title, template in checks.pods(objects):
        [container] = template["spec"]["containers"]
        ports = tuple(port["containerPort"] for port in container.get("ports", []))
        made.append(Peer(title, OURS, template["metadata"]["labels"], ports))
    return made


def reached(objects):
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    return connections(policies, [*our_peers(objects), *engine_peers(), *OUTSIDE])


def needs(access):
    ports = dict((NATS, REDIS, S3))
    return {
        (engine, ports[engine])
        for engine, names in FIELDS.items()
        if any(getattr(access, name) for name in names)
    }


def expected(objects, every_process):
    processes = {process.name: process for _, process in every_process}
    ours, engines = our_peers(objects), engine_peers()
    own = {peer.name: processes.get(peer.labels["app.kubernetes.io/name"]) for peer in ours}
    apps = {name: process for name, process in own.items() if isinstance(process, HttpApp)}
    found = {("prometheus", "nats", 8222), ("keda", "nats", 8222)}
    for peer in ours:
        found.add((peer.name, "names", 53))
        process = own[peer.name]
        if process is not None:
            found |= {(peer.name, *target) for target in needs(process.access)}
            found |= {("prometheus", peer.name, port) for port in peer.ports}
        if OPERATOR_LABEL.items() <= peer.labels.items():
            found |= {(peer.name, *target) for target in (NATS, REDIS, S3)}
            found |= {(peer.name, app, 8080) for app in apps}
        if TRAINING_LABEL.items() <= peer.labels.items():
            found.add((peer.name, "StatefulSet mlflow", 5000))
    for name, process in apps.items():
        found.add(("gateway", name, 8080))
        if process.object_events:
            found.add(("filer", name, 8080))
    # Servers of the engines may reach each other, and the name server; our pods refuse them.
    for one in engines:
        found |= {(one.name, other.name, p) for other in engines if other is not one
                  for p in other.ports}  # fmt: skip
        found.add((one.name, "names", 53))
    # A pod without a policy reaches the name server only.
    return found | {(one.name, "names", 53) for one in OUTSIDE if one.name != "names"}


def test_who_reaches_whom_is_what_is_declared(objects, every_process):
    assert reached(objects) == expected(objects, every_process)


def test_some_arrows_by_name(base):
    found = reached(base)
    assert ("Deployment scorer", *REDIS) in found
    assert ("StatefulSet lake-writer", *S3) in found
    for refused in (
        ("StatefulSet lake-writer", *REDIS),
        ("StatefulSet review-desk", *S3),
        ("StatefulSet shadow", "Deployment scorer", 8080),
        ("Deployment scorer", "StatefulSet mlflow", 5000),
        ("gateway", *NATS),
        ("stranger", "Deployment scorer", 8080),
        ("shell", *NATS),
        ("shell", "Deployment scorer", 8080),
    ):
        assert refused not in found


def test_every_kind_of_access_is_at_an_engine():
    # Tokens are of HTTP.
    assert {*set().union(*FIELDS.values()), "tokens"} == {field.name for field in fields(Access)}
    for _, process in [(d, p) for d in DESIGNS for p in d.everything]:
        assert set(engines_of(process.access)) == {name for name, _ in needs(process.access)}
    assert engines_of(Access()) == ()


def policy(objects, name, namespace=OURS):
    return next(one for one in objects if one["kind"] == "NetworkPolicy"
                and one["metadata"]["name"] == name
                and one["metadata"]["namespace"] == namespace)  # fmt: skip


def test_one_end_of_an_arrow_is_not_enough(base, every_process):
    to_redis = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": THEIRS}},
                "podSelector": {"matchLabels": {"app": "redis"}}}],
        "ports": [{"protocol": "TCP", "port": 6379}],
    }  # fmt: skip
    policy(base, "lake-writer")["spec"]["egress"].append(to_redis)
    assert reached(base) == expected(base, every_process)
    callers = policy(base, "redis", THEIRS)["spec"]["ingress"][0]["from"]
    callers[0]["podSelector"]["matchExpressions"][0]["values"].append("lake-writer")
    assert reached(base) - expected(base, every_process) == {("StatefulSet lake-writer", *REDIS)}


def test_a_policy_that_opens_too_much_is_found(base, every_process):
    del policy(base, "scorer")["spec"]["ingress"][0]["from"]
    extra = reached(base) - expected(base, every_process)
    assert ("stranger", "Deployment scorer", 8080) in extra


def test_a_missing_refusal_is_found(base, every_process):
    base.remove(policy(base, "refuse-all"))
    base.remove(policy(base, "name-server"))
    extra = reached(base) - expected(base, every_process)
    assert ("shell", "StatefulSet mlflow", 5000) not in extra  # it refuses by itself
    base.remove(policy(base, "mlflow"))
    extra = reached(base) - expected(base, every_process)
    assert ("shell", "StatefulSet mlflow", 5000) in extra


def test_a_missing_permission_is_found(base, every_process):
    base.remove(policy(base, "monitor"))
    lost = expected(base, every_process) - reached(base)
    assert ("StatefulSet monitor", *NATS) in lost
