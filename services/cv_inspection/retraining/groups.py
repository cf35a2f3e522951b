"""Which images show one part: `groups.csv` in a folder, or a pattern on the paths.

Images of one part must share a group, or a part is in training and in test.
"""

import csv
import io
import re
from pathlib import Path

GROUPS = "groups.csv"
_COLUMNS = ("path", "group")


def group_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of `groups.csv`, without spaces around names and values; empty without a file.

    Raises:
        ValueError: it is not UTF-8, lacks a column or all rows, or a row lacks its path or group or
            names the path of another; the message has the line.
    """
    path = folder / GROUPS
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    missing = set(_COLUMNS) - set(reader.fieldnames)
    if missing:
        raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; it needs path,group")
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        kept = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        for column in _COLUMNS:
            if not kept[column]:
                raise ValueError(f"{path}, line {reader.line_num}: no {column}")
        if kept["path"] in rows:
            raise ValueError(f"{path}, line {reader.line_num}: {kept['path']} has a row already")
        rows[kept["path"]] = kept
    if not rows:
        raise ValueError(f"{path}: no rows; add one row per image, or remove the file")
    return list(rows.values())


def group_of(path: Path, folder: Path, group_by: str) -> str:
    """An image's group by a pattern: its first group, or else the whole match.

    ValueError if the pattern is no regular expression, is not found in the path, or finds no text.
    """
    relative = path.relative_to(folder).as_posix()
    try:
        match = re.search(group_by, relative)
    except re.error as error:
        raise ValueError(f"--group-by {group_by!r} is not a regular expression: {error}") from None
    if match is None:
        raise ValueError(f"{path}: --group-by {group_by!r} is not found in {relative!r}")
    found = match.group(1) if match.re.groups else match.group()
    if not found:
        raise ValueError(f"{path}: --group-by {group_by!r} finds no group in {relative!r}")
    return found
