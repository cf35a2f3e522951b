"""The banks as containers: each with a network and a volume of its own."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.test_compose import ROOT, SECRETS, docker, docker_answers, until

PROJECT = "whiteboard-federated"
BANKS = tuple(f"bank-{number}" for number in range(1, 5))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not docker_answers(), reason="no Docker engine answers here"),
]


def compose(*arguments: str, timeout: float = 900) -> str:
    command = ("compose", "-p", PROJECT, "--profile", "federated", *arguments)
    return docker(*command, timeout=timeout)


@pytest.fixture(scope="module")
def trained() -> Iterator[dict]:
    """What the coordinator reports after two rounds; the banks go on running."""
    compose("build", *BANKS, timeout=3_600)
    command = (
        "whiteboard", "federate", "fraud", "--only", "coordinator", "--meet", "/meet",
        "--rounds", "2", "--json",
    )  # fmt: skip
    said = compose("run", "--rm", "-T", "--use-aliases", "coordinator", *command, timeout=1_800)
    yield json.loads(said[said.index("{") :])
    compose("down", "-v", "--timeout", "10")


def containers() -> dict[str, dict]:
    """All containers of the machine by name."""
    ids = docker("ps", "-aq").split()
    return {one["Name"]: one for one in json.loads(docker("inspect", *ids))}


def inside(bank: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a bank's container."""
    command = (
        "docker", "compose", "-p", PROJECT, "--profile", "federated", "exec", "-T", bank,
        "python", "-c", code,
    )  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | SECRETS, capture_output=True, text=True, timeout=120
    )


def test_every_bank_takes_part_in_every_round(trained: dict) -> None:
    assert [phase["banks"] for phase in trained["phases"]] == [[1, 2, 3, 4]] * 2
    assert trained["errors"] == []
    assert trained["received"] > 0


def test_a_banks_volume_is_mounted_in_that_bank_alone(trained: dict) -> None:
    found = containers()
    services = json.loads(compose("config", "--format", "json"))["services"]
    for bank in BANKS:
        users = [
            name
            for name, one in services.items()
            if any(mount["source"] == bank for mount in one.get("volumes", ()))
        ]
        assert users == [bank]
        volume = f"{PROJECT}_{bank}"
        path = docker("volume", "inspect", volume, "--format", "{{.Mountpoint}}").strip()
        holders = [
            name
            for name, one in found.items()
            if any(m.get("Name") == volume or m["Source"].startswith(path) for m in one["Mounts"])
        ]
        assert holders == [f"/{PROJECT}-{bank}-1"]


def test_a_bank_reads_its_own_rows_and_no_others(trained: dict) -> None:
    code = (
        "import pathlib; print(*sorted(p.as_posix() for root in ('/data', '/meet') "
        "for p in pathlib.Path(root).rglob('*.npz')))"
    )
    rows = "/data/federated/rows"
    for bank in BANKS:
        files = inside(bank, code).stdout.split()
        assert files == [f"{rows}/{name}.npz" for name in ("later", "train", "validation")]
    sizes = [
        int(inside(b, f"import os; print(os.path.getsize('{rows}/train.npz'))").stdout)
        for b in BANKS
    ]
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_bank_reaches_no_other(trained: dict) -> None:
    networks = [
        set(containers()[f"/{PROJECT}-{b}-1"]["NetworkSettings"]["Networks"]) for b in BANKS
    ]
    assert networks == [{f"{PROJECT}_{bank}"} for bank in BANKS]
    code = "import socket; socket.getaddrinfo({name!r}, 80)"
    assert inside("bank-1", code.format(name="bank-1")).returncode == 0
    assert "gaierror" in inside("bank-1", code.format(name="bank-2")).stderr
    address = next(
        iter(containers()[f"/{PROJECT}-bank-2-1"]["NetworkSettings"]["Networks"].values())
    )
    connect = f"import socket; socket.create_connection(({address['IPAddress']!r}, 9094), 3)"
    assert inside("bank-1", connect).returncode != 0


def test_a_bank_that_is_killed_comes_back(trained: dict) -> None:
    name = f"{PROJECT}-bank-3-1"
    before = containers()[f"/{name}"]["RestartCount"]
    subprocess.run(["kill", "-9", docker("inspect", name, "--format", "{{.State.Pid}}").strip()])
    until(lambda: containers()[f"/{name}"]["RestartCount"] > before)
