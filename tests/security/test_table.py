"""SECURITY.md names a test for each attack, and each file of attacks."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_TABLE = (ROOT / "SECURITY.md").read_text().partition("## Attacks that must fail")[2]
ROWS = {
    cells[0].strip(): re.findall(r"`([\w/.]+\.py(?:::\w+)?)`", cells[2])
    for line in _TABLE.partition("## ")[0].splitlines()
    if len(cells := line.strip("|").split("|")) == 3
}
NAMED = [name for names in ROWS.values() for name in names]


def file_of(name: str) -> Path:
    path = name.partition("::")[0]
    return ROOT / path if "/" in path else HERE / path


@pytest.mark.parametrize("row", [*map(str, range(1, 12)), "held", "all", "locks"])
def test_each_attack_has_a_test(row):
    assert ROWS[row]


@pytest.mark.parametrize("name", NAMED)
def test_each_test_that_is_named_exists(name):
    functions = {
        node.name
        for node in ast.parse(file_of(name).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    tests = {function for function in functions if function.startswith("test_")}
    assert tests
    assert name.partition("::")[2] in {"", *tests}


def test_each_file_of_attacks_is_named():
    assert {*HERE.glob("test_*.py")} - {Path(__file__)} <= {file_of(name) for name in NAMED}
