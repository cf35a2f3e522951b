"""The questions of docs/questions.md, as the tests of the page and of the commands read them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

TEXT = Path(__file__).parents[1] / "docs" / "questions.md"
_HEAD = re.compile(r"^### (\d+)\. (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"^- `(whiteboard .+)`$", re.MULTILINE)
_CLICK = re.compile(r"^- click `#(.+)`$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        answer: Its sentences.
        commands: Arguments of `whiteboard`.
        clicks: Addresses in the page, "design/view" or "design/view/box".
    """

    number: int
    text: str
    answer: str
    commands: list[list[str]]
    clicks: list[str]


def questions() -> list[Question]:
    """All of them, in order."""
    _, *parts = _HEAD.split(TEXT.read_text())
    return [
        Question(
            int(number),
            text,
            body.strip().partition("\n")[0],
            [shlex.split(command)[1:] for command in _COMMAND.findall(body)],
            _CLICK.findall(body),
        )
        for number, text, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]
