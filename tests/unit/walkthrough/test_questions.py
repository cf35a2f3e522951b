"""docs/questions.md: every command and every click in it exists."""

import re

import pytest
import typer
from typer.main import get_command

from services.cli.main import app
from services.designs import DESIGNS
from services.walkthrough.board import diagram_of
from services.walkthrough.recording import STATIC
from tests.docs_questions import questions

# Typer has a copy of click; this is the base of its errors of the command line.
UsageError = typer.BadParameter.__bases__[0]
QUESTIONS = questions()
BOXES = {design.name: {box.id for box in diagram_of(design).boxes} for design in DESIGNS}
VIEWS = set(re.findall(r'\["([a-z]+)", "[A-Z]', (STATIC / "app.js").read_text()))


def test_there_are_forty_and_each_has_two_sentences_and_a_place_that_shows_it():
    assert [question.number for question in QUESTIONS] == list(range(1, 41))
    for question in QUESTIONS:
        assert question.commands or question.clicks, question.text
        assert len(re.findall(r"[.](?= [A-Z0-9]|$)", question.answer)) in (2, 3), question.answer


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: str(q.number))
def test_its_commands_and_clicks_exist(question):
    group = get_command(app)
    for name, *arguments in question.commands:
        command = group.commands[name]
        if "--help" in arguments:
            continue
        # Parses every argument and option, with its type and its limits, and runs nothing.
        with command.make_context(name, list(arguments)):
            pass
    for click in question.clicks:
        design, view, *box = click.split("/")
        assert view in VIEWS, click
        assert set(box) <= BOXES[design], click


def test_a_command_with_a_wrong_option_would_be_seen():
    command = get_command(app).commands["simulate"]
    for wrong in (["fraud", "--speed", "3"], ["weather"], ["fraud", "--rate", "-1"]):
        with pytest.raises(UsageError):
            command.make_context("simulate", wrong)
