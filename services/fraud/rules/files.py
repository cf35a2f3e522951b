"""Rule files: YAML that holds rules and their lists.

lists:
  stolen_devices: [d17, d99]
  trusted_pairs: {file: trusted.txt}     # one value per line, beside the rule file
rules:
  - id: stolen-device
    when: device_id in lists.stolen_devices
    action: decline
    reason: the device is reported stolen
    owner: fraud-operations
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from services.fraud.ingestion.events import StrictModel
from services.fraud.problem import CONF
from services.fraud.rules.expression import RuleRefused
from services.fraud.rules.lists import Values, list_text, read_values, reference
from services.fraud.rules.rule import Name, Rule, RuleSet
from services.platform.streaming.messages import validation_message

# The rules that act where none have been published yet.
SHIPPED = CONF / "rules.yaml"
MAX_FILE_BYTES = 256 << 10


class _ListFile(StrictModel):
    file: str


class _RuleFile(StrictModel):
    rules: list[Rule]
    lists: Mapping[Name, list[Any] | _ListFile] = {}


@dataclass(frozen=True)
class Rules:
    """A set of rules with the content of its lists.

    Attributes:
        rule_set: The set.
        texts: By digest, the content of each list.
    """

    rule_set: RuleSet
    texts: Mapping[str, bytes]

    @cached_property
    def values(self) -> dict[str, Values]:
        """The values of each list, by name. ListRefused if a content is not that of its digest."""
        lists = self.rule_set.lists
        return {name: read_values(name, one, self.texts[one.digest]) for name, one in lists.items()}


def read_rules(path: Path) -> Rules:
    """The rules of a file.

    Raises:
        RuleRefused, ListRefused: what is wrong, by its place in the file.
        OSError: there is no such file.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise RuleRefused(f"{path}: more than {MAX_FILE_BYTES >> 10} KB: put lists into files")
    try:
        read = _RuleFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        texts = {n: list_text(n, _values(path, one)) for n, one in read.lists.items()}
        lists = {name: reference(text) for name, text in texts.items()}
        rule_set = RuleSet(rules=tuple(read.rules), lists=lists)
    except yaml.YAMLError as error:
        raise RuleRefused(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise RuleRefused(f"{path}: no UTF-8 text: {error.reason}") from None
    except ValidationError as error:
        raise RuleRefused(f"{path}: {validation_message(error)}") from None
    return Rules(rule_set, {lists[name].digest: text for name, text in texts.items()})


def shipped_rules() -> Rules:
    """The rules that come with this version."""
    return read_rules(SHIPPED)


def _values(path: Path, given: list[Any] | _ListFile) -> list[Any]:
    if isinstance(given, _ListFile):
        text = (path.parent / given.file).read_text(encoding="utf-8")
        return text.removesuffix("\n").split("\n") if text else []
    return given
