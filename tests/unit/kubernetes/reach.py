"""Which pods may connect to which, as Kubernetes reads network policies.

A pod that no policy of a direction selects may do everything in that direction; otherwise what any
of them allows. A connection needs both of its ends.
"""

from dataclasses import dataclass, field

NAMESPACE_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """A kind of pod, where its connections end."""

    name: str
    namespace: str
    labels: dict[str, str] = field(hash=False)
    ports: tuple[int, ...] = ()
    namespace_labels: dict[str, str] = field(default_factory=dict, hash=False)


def connections(policies: list[dict], peers: list[Peer]) -> set[tuple[str, str, int]]:
    """(source, target, port) of all connections that the policies let through."""
    return {
        (source.name, target.name, port)
        for source in peers
        for target in peers
        for port in target.ports
        if source is not target
        and _allowed(policies, "Egress", source, target, port)
        and _allowed(policies, "Ingress", target, source, port)
    }


def _allowed(policies: list[dict], direction: str, own: Peer, other: Peer, port: int) -> bool:
    chosen = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == own.namespace
        and direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], own.labels)
    ]
    if not chosen:
        return True
    key = direction.lower()
    rules = [rule for policy in chosen for rule in policy["spec"].get(key) or []]
    return any(_rule(rule, direction, own, other, port) for rule in rules)


def _rule(rule: dict, direction: str, own: Peer, other: Peer, port: int) -> bool:
    peers = rule.get("to" if direction == "Egress" else "from")
    ports = rule.get("ports")
    if ports and all(one["port"] != port or one["protocol"] != "TCP" for one in ports):
        return False
    return not peers or any(_peer(peer, own, other) for peer in peers)


def _peer(peer: dict, own: Peer, other: Peer) -> bool:
    assert set(peer) <= {"namespaceSelector", "podSelector"}, "addresses are not evaluated"
    if "namespaceSelector" in peer:
        labels = {NAMESPACE_NAME: other.namespace, **other.namespace_labels}
        if not matches(peer["namespaceSelector"], labels):
            return False
    elif own.namespace != other.namespace:
        return False
    return matches(peer.get("podSelector", {}), other.labels)


def matches(selector: dict, labels: dict[str, str]) -> bool:
    """Whether a label selector selects labels; an empty one selects all."""
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return exact and all(labels.get(one["key"]) in one["values"] for one in expressions)
