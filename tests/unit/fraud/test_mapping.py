"""Mappings: what they refuse, and how they read labels, amounts and ids."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.fraud.ingestion.events import Id
from services.fraud.ingestion.mapping import FileMapping
from services.fraud.ingestion.rejections import InvalidField
from tests.unit.fraud.replay_files import mapping

YAML = """
columns: {transaction_id: id, event_time: when, customer_id: who, merchant_id: shop, amount: eur,
          fraud: bad}
prefix: x
label_delay_days: 7
"""


def load(tmp_path, content):
    path = tmp_path / "m.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FileMapping.load(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: {transaction_id: id}", "columns.event_time"),
        (YAML + "colour: blue", "colour"),
        (YAML.replace("label_delay_days: 7", "label_delay_days: -1"), "label_delay_days"),
        (YAML.replace("label_delay_days: 7", "label_delay_days: .inf"), "label_delay_days"),
        (YAML.replace("prefix: x", "prefix: a b"), "prefix"),
        (YAML.replace("bad}", "no}"), "columns.fraud.*False: put it in quotes"),
        (YAML + "ids: guess", "ids"),
        (YAML + "time: {unit: weeks}", "time.unit"),
        (YAML + "time: {unit: s, format: '%d'}", "give one of them"),
        (YAML + "time: {zone: Europe/Atlantis}", "time.zone"),
        (YAML + "labels: {fraud: [ok], genuine: [OK]}", "fraud and genuine"),
        (YAML + "labels: {genuine: [chargeback]}", "fraud and genuine"),
        (YAML + "encoding: utf-99", "encoding"),
        (YAML + "encoding: base64", "encoding"),
        ("columns: [", "mapping"),
        ("a: &a [1]\nb: [*a, *a]", "aliases"),
        ("origin: 2022-13-45", "mapping"),
        ("[" * 2_000, "mapping"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"#" * 100_000, "64 KiB"),
        (b"", "mapping"),
    ],
)
def test_a_bad_mapping_names_its_field(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_whatever_the_bytes_a_mapping_is_refused_by_name(tmp_path_factory, content):
    with pytest.raises(ValueError, match=r"m\.yaml"):
        load(tmp_path_factory.getbasetemp(), content)


def test_the_package_has_the_handbooks_mapping():
    assert FileMapping.load("handbook").columns.merchant_id == "TERMINAL_ID"


def test_a_name_cannot_leave_the_packages_folder():
    with pytest.raises(OSError, match="No such file"):
        FileMapping.load("../conf/replay-handbook")


@pytest.mark.parametrize(
    ("text", "fraud"),
    [
        *((text, True) for text in ("1", "1.0", "True", "TRUE", "t", "Y", "yes", " Fraud ")),
        *((text, False) for text in ("0", "0.0", "False", "FALSE", "f", "N", "no", "Genuine")),
        *((text, None) for text in ("", " ", "NaN", "null", None)),
    ],
)
def test_the_usual_spellings_of_a_label(text, fraud):
    assert mapping().label(text) is fraud


@pytest.mark.parametrize("text", ["2", "-1", "maybe", "0,0", "truthy", "1e0", "\u0661"])
def test_other_spellings_of_a_label_are_refused(text):
    with pytest.raises(InvalidField, match="is not a label"):
        mapping().label(text)


def test_a_mapping_can_name_more_spellings():
    named = mapping(labels={"fraud": ["CB", 2], "genuine": ["ok"]})
    assert [named.label(text) for text in ("cb", "2", "OK", "y")] == [True, True, False, True]


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("12.75", 1275), (" 12.75 ", 1275), ("12", 1200), (".5", 50), ("1e2", 10_000),
        ("0.005", 0), ("0.015", 2), ("99.999", 10_000), ("123456.78", 12_345_678), ("-5", -500),
    ],
)  # fmt: skip
def test_amounts_are_exact(text, minor):
    assert mapping().amount_minor(text) == minor


@pytest.mark.parametrize(
    "text", ["twelve", "1_000", "1,234.50", "NaN", "inf", "٣", "", "1.2.3", "0x10", "1e9999", "€5"]
)
def test_texts_that_are_not_amounts_are_refused(text):
    with pytest.raises(InvalidField, match="is not a number"):
        mapping().amount_minor(text)


def test_a_huge_amount_is_refused_before_it_is_computed():
    with pytest.raises(InvalidField, match="too large"):
        mapping().amount_minor("1e999")


def test_a_decimal_comma_is_an_option_that_the_error_names():
    with pytest.raises(InvalidField, match='decimal: ","'):
        mapping().amount_minor("12,75")
    assert mapping(decimal=",").amount_minor("12,75") == 1275
    with pytest.raises(InvalidField, match=r'decimal: "\."'):
        mapping(decimal=",").amount_minor("12.75")


@pytest.mark.parametrize(
    "text", ["O'Neil, Ann", "Zoë Müller", "x" * 90, "Café №5", ".hidden", "a b"]
)
def test_an_id_that_cannot_be_kept_names_the_options(text):
    with pytest.raises(InvalidField, match="ids: escape or ids: hash"):
        mapping().identifier("customer_id", text)
    for ids in ("escape", "hash"):
        made = mapping(ids=ids, prefix="x").identifier("customer_id", text)
        assert made.startswith("x")
        TypeAdapter(Id).validate_python(made)


def test_an_escaped_id_stays_readable():
    assert mapping(ids="escape").identifier("customer_id", "O'Neil, Ann") == "O@27Neil@2C@20Ann"
    assert mapping(ids="escape").identifier("customer_id", "c-1_2") == "c-1_2"


@given(st.lists(st.text(min_size=1, max_size=100), min_size=2, max_size=2, unique=True))
def test_escaped_and_hashed_ids_are_valid_and_stay_different(texts):
    for ids in ("escape", "hash"):
        read_by = mapping(ids=ids)
        made = [read_by.identifier("customer_id", text) for text in texts]
        assert made[0] != made[1]
        for one in made:
            TypeAdapter(Id).validate_python(one)


def test_a_runs_name_goes_before_every_id():
    assert mapping(prefix="hb").for_run("b").identifier("customer_id", "7") == "b:hb7"
    with pytest.raises(ValueError, match="letters, digits"):
        mapping().for_run("a b")
    with pytest.raises(ValueError, match="longer than"):
        mapping().for_run("x" * 30)


def test_the_mapping_in_the_docs_is_valid(tmp_path):
    docs = Path(__file__).parents[3] / "docs" / "inputs.md"
    example = docs.read_text().split("```yaml\n")[1].split("```")[0]
    assert load(tmp_path, example).labels.fraud == {"CB"}
