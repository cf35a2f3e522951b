"""Every command of docs/questions.md, for real on a running stack. Half an hour.

With WHITEBOARD_E2E_RUNNING=1 it uses the running stack of the present settings.
"""

import pytest

from tests.docs_questions import questions
from tests.e2e.running import IS_WANTED, Running
from tests.e2e.test_demo import Installation

pytestmark = pytest.mark.e2e
COMMANDS = [(q.number, command) for q in questions() for command in q.commands]
# By command, exit codes that are an answer: 1 where a target is missed or a figure refused, which
# the command says; 2 where the gate refuses.
ANSWERS = {"load": (0, 1), "review": (0, 1), "drill": (0, 1), "why": (0, 1), "retrain": (0, 2),
           "edge": (0, 1), "rules": (0, 1)}  # fmt: skip
SECONDS = 1_800


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    if IS_WANTED:
        yield Running()
        return
    made = Installation(tmp_path_factory.mktemp("questions"))
    made.demo(60)
    yield made
    made.run("down")


@pytest.mark.parametrize(("number", "command"), COMMANDS, ids=lambda x: str(x)[:60])
def test_it_runs_and_says_something(here, number, command):
    done = here.finished(command, SECONDS)
    assert done.returncode in ANSWERS.get(command[0], (0,)), done.stderr[-3_000:]
    assert done.stdout.strip() or done.stderr.strip()
    assert "Traceback" not in done.stderr
