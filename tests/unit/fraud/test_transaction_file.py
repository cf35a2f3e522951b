"""Reading files of transactions as people have them: exact values, and one bad row costs itself."""

import bz2
import gzip
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.fraud.ingestion.time_bounds import Stretch, usual_range
from services.fraud.ingestion.transaction_file import TransactionFile
from tests.unit.fraud.replay_files import COLUMNS, NOW, Replayed, mapping, write_csv

MANY = 20_600  # more than other readers look at before they settle a column's type


def integers(count):
    return [f"{n},2024-01-01 00:00:00,{n % 50 + 1:04},3,12,0" for n in range(count)]


def test_values_are_exact_whatever_the_row(tmp_path):
    rows = [*integers(MANY), "last,2024-01-02 10:00:00,0007,3,12.75,1"]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert found.source.rejections.count == 0
    last = found.transactions[-1]
    assert (last.amount_minor, last.customer_id) == (1275, "0007")
    assert found.transactions[0].customer_id == "0001"


def test_a_text_among_numbers_costs_its_row(tmp_path):
    rows = [*integers(MANY), "last,2024-01-02 10:00:00,0007,3,twelve,1"]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert len(found.transactions) == MANY
    assert found.rejected == [
        f't.csv, row {MANY + 1} (line {MANY + 2}), column "eur": "twelve" is not a number'
    ]


def test_an_unknown_label_is_named_and_its_row_left_out(tmp_path):
    rows = ["1,2024-01-01,7,3,1,Y", "2,2024-01-02,7,3,1,maybe", "3,2024-01-03,7,3,1,N"]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert found.labels == {"1": True, "3": False}
    assert 'row 2 (line 3), column "bad": "maybe" is not a label' in found.rejected[0]


GOOD = [f"{n},2024-01-0{n},7,3,1,0" for n in range(1, 5)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("x,2024-01-02,7,3,1", "5 fields where the header has 6"),
        ("x,2024-01-02,7,3,1,234.50,0", "7 fields where the header has 6"),
        ('x,2024-01-02,"7,3,1,0', "cannot be read as a row"),
        ('x,2024-01-02,"7"8,3,1,0', "cannot be read as a row"),
        ("x,2024-01-02," + "7" * 1_001 + ",3,1,0", "is longer than 1,000 bytes"),
        ("x,2024-01-02," + "7" * 2_000_000 + ",3,1,0", "line longer than"),
        ("x,,7,3,1,0", "is missing"),
        ("x,2024-02-30,7,3,1,0", "is not a time"),
        ("x,epoch,7,3,1,0", "is not a time"),
        (",2024-01-02,7,3,1,0", 'column "id" is missing'),
        ("x,2024-01-02,NULL,3,1,0", 'column "who": "NULL" is missing'),
        (",,,,,", "is missing"),
    ],
)
def test_a_bad_row_costs_itself_and_no_other(tmp_path, bad, reason):
    path = write_csv(tmp_path / "t.csv", [*GOOD[:2], bad, *GOOD[2:]])
    found = Replayed(path)
    assert sorted(found.ids) == ["1", "2", "3", "4"]
    assert found.source.rejections.count == 1
    assert "row 3 (line 4)" in found.rejected[0]
    assert reason in found.rejected[0]
    assert len(found.rejected[0]) < 400


def test_quotes_that_are_never_closed_cost_their_rows(tmp_path):
    broken = [f'x{n},2024-01-02,"7,3,1,0' for n in range(3)]
    rows = [broken[0], *GOOD[:2], broken[1], *GOOD[2:], broken[2]]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert sorted(found.ids) == ["1", "2", "3", "4"]
    assert [text.split(")")[0] for text in found.rejected] == [
        "t.csv, row 1 (line 2",
        "t.csv, row 4 (line 5",
        "t.csv, row 7 (line 8",
    ]


def test_quoted_fields_hold_delimiters_quotes_and_line_ends(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'id,when,who,note,shop,eur,bad\r\n1,2024-01-01,7,"a, ""b""\r\nc",3,"1.50",0\r\n'
        b"\r\n2,2024-01-02,7,d,3,x,0\r\n"
    )
    found = Replayed(path)
    assert [event.amount_minor for event in found.transactions] == [150]
    assert "row 2 (line 5)" in found.rejected[0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(tmp_path, delimiter, end):
    path = tmp_path / "t.txt"
    text = end.join(["id,when,who,shop,eur,bad", *GOOD]).replace(",", delimiter)
    path.write_bytes(text.encode())
    assert Replayed(path).ids == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda text: b"\xef\xbb\xbf" + text.encode(), {}),
        (lambda text: text.encode("utf-16"), {}),
        (lambda text: b"sep=,\n" + text.encode(), {}),
        (lambda text: text.replace("id,when", " ID , When").encode(), {}),
        (lambda text: text.encode("cp1252"), {"encoding": "cp1252"}),
        (lambda text: text.encode("shift_jis", "ignore"), {"encoding": "shift_jis"}),
    ],
)
def test_what_spreadsheets_write(tmp_path, change, options):
    path = tmp_path / "t.csv"
    rows = ["id,when,who,shop,eur,bad", "1,2024-01-01,M\u00fcller,3,1.50,0"]
    path.write_bytes(change("\n".join(rows)))
    found = Replayed(path, mapping(ids="escape", **options))
    assert found.transactions[0].amount_minor == 150
    if "shift_jis" not in options.values():
        assert found.transactions[0].customer_id == "M@C3@BCller"


def test_another_encoding_is_named_row_by_row(tmp_path):
    path = tmp_path / "t.csv"
    rows = ["id,when,who,shop,eur,bad", "1,2024-01-01,M\u00fcller,3,1,0", "2,2024-01-01,a,3,1,0"]
    path.write_bytes("\n".join(rows).encode("cp1252"))
    found = Replayed(path)
    assert found.ids == ["2"]
    assert "encoding: cp1252" in found.rejected[0]


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_compressed_files(tmp_path, ending, compress):
    plain = write_csv(tmp_path / "t.csv", GOOD)
    path = tmp_path / f"t.csv.{ending}"
    path.write_bytes(compress(plain.read_bytes()))
    assert len(Replayed(path).transactions) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no header"),
        (b"\n\n", "has no header"),
        (b"[" + b'{"id": 1},' * 200_000 + b"]", "has no header: line longer than"),
        (b"id,when,who,eur,bad\n", 'no column "shop"'),
        (b"id,id,when,who,shop,eur,bad\n", '2 columns "id"'),
        (b"PK\x03\x04\x14\x00", "workbook"),
        (b"PAR1 and no more", "t.csv"),
        (b"\xff\xfei\x00d", "is not utf-16 text"),
        (b"\xff\xfei\x00d\x00", 'no column "when"'),
        (b"\xff\xfe\x00\xd8\x00\xd8\n\x00", "is not utf-16 text"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        TransactionFile(path, mapping())
    assert "t.csv" in str(caught.value)


def test_a_missing_column_names_those_that_the_file_has(tmp_path):
    path = write_csv(tmp_path / "t.csv", GOOD)
    with pytest.raises(ValueError, match=r't\.csv: no column "store" \(for merchant_id\).*"shop"'):
        TransactionFile(path, mapping(columns={**COLUMNS, "merchant_id": "store"}))


# Parquet: the values of every type are exact.


def parquet(path, rows=2, **columns):
    table = {
        "id": [str(n) for n in range(rows)],
        "when": [datetime(2024, 1, 1) + timedelta(hours=n) for n in range(rows)],
        "who": ["7"] * rows,
        "shop": ["3"] * rows,
        "eur": [1.5] * rows,
        "bad": [0] * rows,
        **columns,
    }
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize(
    ("labels", "fraud"),
    [
        (["0", "1"], [False, True]),
        (["false", "true"], [False, True]),
        (["N", "Y"], [False, True]),
        ([False, True], [False, True]),
        ([None, True], [None, True]),
        ([0.0, 1.0], [False, True]),
        ([float("nan"), 0.0], [None, False]),
        (pa.array(["N", "Y"]).dictionary_encode(), [False, True]),
        (pa.array([b"0", b"1"], pa.binary()), [False, True]),
        (pa.array([0, 1], pa.decimal128(3, 1)), [False, True]),
    ],
)
def test_labels_of_every_parquet_type(tmp_path, labels, fraud):
    found = Replayed(parquet(tmp_path / "t.parquet", bad=labels))
    by_id = {one.event.transaction_id: one.fraud for one in found.events[:2]}
    assert by_id == dict(zip(["0", "1"], fraud, strict=True))
    assert found.labels == {key: one for key, one in by_id.items() if one is not None}


@pytest.mark.parametrize(
    ("amounts", "minor"),
    [
        ([12.75, 57.16], [1275, 5716]),
        (pa.array([12.75, 57.16], pa.float32()), [1275, 5716]),
        (pa.array([Decimal("12.75"), Decimal("999999.99")], pa.decimal128(8, 2)), [1275, 99999999]),
        ([1, 100], [100, 10_000]),
        (["12.75", "1e2"], [1275, 10_000]),
    ],
)
def test_amounts_of_every_parquet_type(tmp_path, amounts, minor):
    found = Replayed(parquet(tmp_path / "t.parquet", eur=amounts))
    assert [event.amount_minor for event in found.transactions] == minor


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        ([7, 2**60 + 1], ["7", str(2**60 + 1)]),
        ([7.0, 8.0], ["7", "8"]),
        (["0007", "8"], ["0007", "8"]),
        (pa.array([b"0007", b"8"], pa.binary()), ["0007", "8"]),
        (pa.array([Decimal(7), Decimal(8)], pa.decimal128(20, 0)), ["7", "8"]),
    ],
)
def test_ids_of_every_parquet_type(tmp_path, ids, texts):
    found = Replayed(parquet(tmp_path / "t.parquet", who=ids))
    assert [event.customer_id for event in found.transactions] == texts


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"),
     pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.string()],
)  # fmt: skip
def test_times_of_every_parquet_type(tmp_path, kind):
    first = datetime(2024, 1, 1, 10, 0, 1, tzinfo=UTC)
    values = pa.array([first, first + timedelta(seconds=1)], pa.timestamp("us", "UTC"))
    if pa.types.is_string(kind):
        values = pa.array(["2024-01-01T10:00:01Z", "2024-01-01 12:00:02+02:00"])
    else:
        values = values.cast(pa.timestamp("us")).cast(pa.timestamp(kind.unit)).cast(kind)
    if getattr(kind, "tz", None):
        values = pa.array([first, first + timedelta(seconds=1)], kind)
    found = Replayed(parquet(tmp_path / "t.parquet", when=values))
    assert [event.event_time for event in found.transactions] == [
        first,
        first + timedelta(seconds=1),
    ]


def test_a_parquet_text_that_is_not_utf8_costs_its_row(tmp_path):
    broken = pa.array([b"\xff\xfe", b"7"], pa.binary()).view(pa.string())
    found = Replayed(parquet(tmp_path / "t.parquet", who=broken))
    assert found.ids == ["1"]
    assert 't.parquet, row 1, column "who"' in found.rejected[0]


def test_a_nested_column_is_refused_by_name(tmp_path):
    path = parquet(tmp_path / "t.parquet", who=[["7"], ["8"]])
    with pytest.raises(ValueError, match=r't\.parquet: column "who" is list'):
        TransactionFile(path, mapping())


def test_parquet_is_known_by_its_first_bytes(tmp_path):
    assert len(Replayed(parquet(tmp_path / "export.dat")).transactions) == 2


# Times.


@pytest.mark.parametrize(
    ("time", "texts", "first"),
    [
        ({"unit": "s", "origin": "2022-04-01"}, ["0", "61"], datetime(2022, 4, 1)),
        ({"unit": "s"}, ["1650000000", "1650000061.0"], datetime(2022, 4, 15, 5, 20)),
        ({"unit": "ms"}, ["1650000000000", "1650000061000"], datetime(2022, 4, 15, 5, 20)),
        ({"unit": "us"}, ["1650000000000000", "1650000061000000"], datetime(2022, 4, 15, 5, 20)),
        ({"unit": "min", "origin": "2022-04-01"}, ["0", "1.01666666666667"], datetime(2022, 4, 1)),
        ({"unit": "h", "origin": "2022-04-01"}, ["-1", "-0.98305555555556"],
         datetime(2022, 3, 31, 23)),
        ({"unit": "ns"}, ["1650000000000000000", "1650000061000000000"],
         datetime(2022, 4, 15, 5, 20)),
        ({"unit": "d", "origin": "1899-12-30"}, ["44652.5", "44652.50070601851852"],
         datetime(2022, 4, 1, 12)),
        ({"format": "%d.%m.%Y %H:%M:%S"}, ["01.04.2022 10:00:00", "01.04.2022 10:01:01"],
         datetime(2022, 4, 1, 10)),
        ({"zone": "Europe/Berlin"}, ["2022-04-01 10:00:00", "2022-04-01 10:01:01"],
         datetime(2022, 4, 1, 8)),
        ({"zone": "Europe/Berlin"}, ["2022-04-01T10:00:00Z", "2022-04-01T10:01:01Z"],
         datetime(2022, 4, 1, 10)),
    ],
)  # fmt: skip
def test_a_mapping_says_how_times_are_written(tmp_path, time, texts, first):
    rows = [f"{n},{text},7,3,1,0" for n, text in enumerate(texts)]
    found = Replayed(write_csv(tmp_path / "t.csv", rows), mapping(time=time))
    expected = [first.replace(tzinfo=UTC), first.replace(tzinfo=UTC) + timedelta(seconds=61)]
    assert [event.event_time for event in found.transactions] == expected


def test_a_number_without_a_unit_names_the_option(tmp_path):
    found = Replayed(write_csv(tmp_path / "t.csv", ["1,0,7,3,1,0", "2,61,7,3,1,0"]))
    assert found.source.rejections.count == 2
    assert "time: {unit: s, origin: 2022-04-01}" in found.rejected[0]


def test_an_unknown_format_is_refused_by_name(tmp_path):
    path = write_csv(tmp_path / "t.csv", GOOD)
    with pytest.raises(ValueError, match=r"t\.csv: .*%Q"):
        TransactionFile(path, mapping(time={"format": "%Q"}))


def dates(*texts):
    return [f"{n},{text},7,3,1,0" for n, text in enumerate(texts, 1)]


BULK = tuple(f"2022-{4 + n // 25:02}-{n % 25 + 1:02}" for n in range(150))


@pytest.mark.parametrize(
    ("times", "left_out"),
    [
        (("2022-04-02", "2022-04-03", "2022-04-04", "2030-01-01"), ["in the future"]),
        (("2022-04-02", "2022-04-03", "2022-04-04", "2023-09-01"), ["515 days after the rest"]),
        (("2020-01-01", "2022-04-02", "2022-04-03", "2022-04-04"), ["822 days before the rest"]),
        (("1970-01-01", "2022-04-02"), ["before the year 2000"]),
        (("9999-12-31 23:59:59", "2022-04-02"), ["in the future"]),
        ((*BULK, "2023-08-01"), ["after the rest"]),
        (("2005-01-01", *BULK, "2023-08-01"), ["before the rest", "after the rest"]),
        (("2021-04-01", *BULK), ["before the rest"]),
        # Not few, or not far: kept.
        (("2022-04-02", "2023-09-01"), []),
        (("2022-04-02", "2022-04-03", "2023-09-01", "2023-09-02"), []),
        (("2022-04-02", "2022-04-03", "2022-06-01"), []),
        (("2022-04-01", "2022-05-01", "2022-06-01", "2022-12-01"), []),
        ((*BULK, "2022-10-30"), []),
        ((*BULK, "2023-08-01", "2023-08-02", "2023-08-03"), []),
        ((*(t for t in BULK if not t.startswith("2022-06")), "2023-02-01"), []),
    ],
)
def test_rows_far_from_the_rest_are_named_before_anything_is_sent(tmp_path, times, left_out):
    path = write_csv(tmp_path / "t.csv", dates(*times))
    with TransactionFile(path, mapping(), now=NOW) as source:
        examples = source.rejections.examples
        assert source.rows == len(times) - len(left_out)
    assert len(examples) == len(left_out)
    for example, reason in zip(examples, left_out, strict=True):
        assert reason in example


def test_any_time_keeps_far_rows_but_none_of_the_future(tmp_path):
    rows = dates("2022-04-02", "2022-04-03", "2022-04-04", "2023-09-01", "2030-01-01")
    path = write_csv(tmp_path / "t.csv", rows)
    assert Replayed(path).ids == ["1", "2", "3"]
    assert "--any-time" in Replayed(path).rejected[0]
    assert Replayed(path, any_time=True).ids == ["1", "2", "3", "4"]


def test_far_rows_may_be_far_from_each_other():
    day = 86_400_000_000
    bulk = Stretch(5_000 * day, 5_183 * day, 300, day)
    far = [Stretch(n * day, n * day, 1, 0) for n in (1_000, 3_000, 9_000)]
    assert usual_range(sorted([bulk, *far])) == (bulk.first_us, bulk.last_us)


# Ids that occur twice.


def test_an_id_with_other_values_is_named_and_the_first_is_kept(tmp_path):
    rows = ["1,2024-01-01 10:00:05,7,3,90,0", "1,2024-01-01 10:00:00,7,3,10,0"]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert [event.amount_minor for event in found.transactions] == [1000]
    assert found.rejected == [
        't.csv, row 1 (line 2), column "id": "1" is the id of row 2 too, which comes first '
        "and differs"
    ]
    assert found.source.duplicates == 0


def test_an_equal_row_is_one_event_and_counted(tmp_path):
    found = Replayed(write_csv(tmp_path / "t.csv", [*GOOD, *GOOD, GOOD[0]]))
    assert found.ids == ["1", "2", "3", "4"]
    assert found.source.duplicates == 5
    assert found.source.duplicate_examples[0] == "t.csv, row 5 (line 6) repeats row 1"
    assert found.source.rejections.count == 0


def test_every_row_is_an_event_a_repeat_or_rejected(tmp_path):
    rows = [*GOOD, GOOD[1], "2,2024-01-09,7,3,1,0", "5,2024-01-01,7,3,x,0", "6,never,7,3,1,0", "7"]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert len(found.ids) == len(set(found.ids))
    counted = len(found.ids) + found.source.duplicates + found.source.rejections.count
    assert counted == len(rows)


# What is kept of a file: examples, all counts, a sketch.


def test_examples_are_few_and_counts_are_complete(tmp_path):
    rows = [f"{n},2024-01-01,7,3,x,0" for n in range(500)]
    found = Replayed(write_csv(tmp_path / "t.csv", rows))
    assert found.source.rejections.count == found.source.rejections.by_field["amount"] == 500
    assert len(found.rejected) == 20


def sketch(path, read_by=None):
    with TransactionFile(path, read_by or mapping(), now=NOW) as source:
        return set(source.sketch())


def test_the_same_transactions_are_recognised_in_another_file(tmp_path):
    rows = [f"{n},2024-01-0{n % 9 + 1} 00:00:00,7,3,1.50,0" for n in range(2_000)]
    whole = sketch(write_csv(tmp_path / "a.csv", rows))
    grown = sketch(write_csv(tmp_path / "b.csv", [*reversed(rows), "x,2024-01-10,7,3,1,0"]))
    window = sketch(write_csv(tmp_path / "c.csv", rows[1_000:]))
    other = sketch(write_csv(tmp_path / "d.csv", [row.replace("2024", "2023") for row in rows]))
    assert len(whole) == 256
    assert len(whole & grown) > 200
    assert whole & window
    assert not whole & other
    assert not whole & sketch(tmp_path / "a.csv", mapping().for_run("again"))
    when = [datetime(2024, 1, n % 9 + 1) for n in range(2_000)]
    columns = {"id": list(range(2_000)), "when": when, "eur": [1.5] * 2_000}
    assert whole == sketch(parquet(tmp_path / "e.parquet", rows=2_000, **columns))
