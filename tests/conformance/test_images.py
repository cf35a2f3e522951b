"""The serving image has what its processes import."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from services.designs import DESIGNS
from services.platform.design import HttpApp, Process

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
SERVE = (ROOT / "Dockerfile").read_text().partition(" AS serve\n")[2].partition("\nFROM ")[0]

# Imports modules where only some distributions and some of our own packages can be found.
PROGRAM = """
import importlib, re, sys
from importlib.metadata import packages_distributions
locked, copied, modules = (argument.split() for argument in sys.argv[1:])
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
owners = {top: set(map(normal, found)) for top, found in packages_distributions().items()}
class Image:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        others = owners.get(top)
        there = top in copied if others == {"whiteboard"} else not others or others & set(locked)
        if not there:
            raise ModuleNotFoundError(f"the image has no {top}", name=top)
sys.meta_path.insert(0, Image())
for name in modules:
    importlib.import_module(name)
"""


def module(process: HttpApp | Process) -> str:
    if isinstance(process, HttpApp):
        return process.factory.partition(":")[0]
    return process.module


def test_the_serving_image_has_what_its_processes_import():
    served = [
        module(process)
        for design in DESIGNS
        for process in design.everything
        if COMPOSE[process.name]["image"] == "whiteboard-serve"
    ]
    assert len(served) > 5
    copied = re.findall(r"^COPY (\w+) \1$", SERVE, re.MULTILINE)
    pins = (ROOT / "requirements-serve.lock").read_text()
    locked = re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==", pins, re.MULTILINE)
    assert imports(locked, copied, served) == ""
    # The same without one of them is seen.
    without = [name for name in copied if name != "features"]
    assert "the image has no features" in imports(locked, without, served)
    assert "the image has no orjson" in imports(set(locked) - {"orjson"}, copied, served)


def imports(locked, copied, modules):
    """The last line of the error, if there is one."""
    command = [sys.executable, "-c", PROGRAM, *map(" ".join, (locked, copied, modules))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
