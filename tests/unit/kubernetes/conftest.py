"""The manifests as a cluster would get them: the committed base, and both overlays rendered."""

import copy
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from infra.kubernetes.generate import FOLDER, processes
from services.designs import DESIGNS

VARIANTS = ("base", "local", "production")


@pytest.fixture(scope="session")
def every_process():
    return processes(DESIGNS)


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def objects(variant):
    """A copy of the variant's objects, which a test may break."""
    return copy.deepcopy(rendered(variant))


@pytest.fixture
def base():
    return copy.deepcopy(rendered("base"))


@cache
def rendered(variant: str) -> list[dict]:
    if variant == "base":
        names = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["resources"]
        texts = [(FOLDER / "base" / name).read_text() for name in names]
    else:
        texts = [_kustomized(FOLDER / "overlays" / variant)]
    return [one for text in texts for one in yaml.safe_load_all(text)]


def _kustomized(folder: Path) -> str:
    command = _kustomize()
    if not command:
        pytest.skip("no kustomize and no kubectl here: infra/tools.sh brings one")
    run = subprocess.run((*command, str(folder)), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def _kustomize() -> tuple[str, ...]:
    for name, verb in (("kustomize", "build"), ("kubectl", "kustomize")):
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if found:
            return found, verb
    return ()
