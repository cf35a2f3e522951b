"""Manifests of a batch as S3 and spreadsheet programs write them."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cv_inspection.serving.batch import ManifestRow, read_manifest
from services.platform.settings import Settings

SETTINGS = Settings()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("manifest") / "manifest.csv"


def read(path, data):
    path.write_bytes(data)
    return read_manifest(SETTINGS, str(path))


def test_versions_line_ends_and_encoded_keys_are_read(path):
    data = b'"inbox","a/b/c/1.jpg","3HL4kqtJ"\r\n"inbox","a/b/c/f%202+3%2B.jpg",""\r\n\r\n'
    assert read(path, data) == [
        ManifestRow("inbox", "a/b/c/1.jpg", "3HL4kqtJ"),
        ManifestRow("inbox", "a/b/c/f 2 3+.jpg", ""),
    ]
    headed = b"\xef\xbb\xbfBucket,Key,VersionId\n" + "inbox,größe%20\u2028.jpg,\n".encode()
    assert read(path, headed) == [ManifestRow("inbox", "größe \u2028.jpg", "")]


def test_a_bucket_called_bucket_is_no_header_and_a_header_may_follow_empty_lines(path):
    assert read(path, b"bucket,a/b/c/1.jpg\n") == [ManifestRow("bucket", "a/b/c/1.jpg", "")]
    assert read(path, b"\n\nBucket,Key\ninbox,1.jpg\n") == [ManifestRow("inbox", "1.jpg", "")]
    with pytest.raises(ValueError, match="line 4: "):
        read(path, b'inbox,"a\nb.jpg"\n\ninbox\n')


@pytest.mark.parametrize("row", ["inbox,%FF.jpg", "inbox,a,b,c", "inbox", "inbox,", ",a.jpg"])
def test_a_row_that_names_no_object_is_named(path, row):
    with pytest.raises(ValueError, match="line 2: "):
        read(path, f"inbox,a/b/c/d.jpg\n{row}\n".encode())


def written(rows):
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode(errors="replace")


CELLS = st.text(max_size=12)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.lists(st.lists(CELLS, max_size=4), max_size=4).map(written))
def test_any_bytes_are_rows_or_a_named_error(path, data):
    try:
        rows = read(path, data)
    except ValueError as error:
        named = f"{path} is not a CSV" in str(error) or f"{path}, line " in str(error)
    else:
        named = all(row.bucket and row.key for row in rows)
    assert named
