"""A package that was replaced in the registry is not installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
_ENTRY = re.compile(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_of_a_lock_has_hashes(lock):
    entries = _ENTRY.findall((ROOT / lock).read_text())
    assert len(entries) > (1 if re.search("spark|page", lock) else 40)
    without = [e.partition("\n")[0] for e in entries if "--hash=sha256:" not in e or "==" not in e]
    assert not without


def test_all_but_torch_is_installed_by_its_hashes(tmp_path):
    lock, calls = tmp_path / "some.lock", tmp_path / "pip"
    some = "some==1 ; a > 'b' \\\n    --hash=sha256:11\n"
    lock.write_text(f"torch==1.0 \\\n    --hash=sha256:00\n{some}")
    show_last = 'for a; do :; done\ncat "$a" || true\n'
    calls.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n{show_last}')
    calls.chmod(0o755)
    command = ["sh", str(ROOT / "infra/install_locked.sh"), str(calls), str(lock), "https://cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0].endswith("--no-deps --index-url https://cpu torch==1.0")
    assert "--no-deps --require-hashes -r" in said[1]
    assert said[2] == "install --no-compile --quiet torch==1.0"
    # The file that pip was given has all but torch.
    assert done.stdout == some


@pytest.mark.e2e
def test_pip_refuses_a_wrong_hash(tmp_path):
    lock = tmp_path / "some.lock"
    lock.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@" --target {tmp_path}/to\n')
    pip.chmod(0o755)
    command = ["sh", str(ROOT / "infra/install_locked.sh"), str(pip), str(lock)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "HASH" in done.stdout + done.stderr
    assert not (tmp_path / "to").exists()
