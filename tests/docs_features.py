"""The change that docs/features.md describes, applied to the file that it names."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "features.md"
_DIFF = PAGE.read_text().split("```diff\n")[1].split("```")[0].splitlines()
PATH = Path(_DIFF[0].removeprefix("--- a/"))


def patched(text: str) -> str:
    """The text of the file with every hunk applied."""
    assert _DIFF[1] == f"+++ b/{PATH}"
    for hunk in "\n".join(_DIFF[2:]).split("@@\n")[1:]:
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
        new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
        assert text.count(old) == 1, f"this is not there, or not once:\n{old}"
        text = text.replace(old, new)
    return text
