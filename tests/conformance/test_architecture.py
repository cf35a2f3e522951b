"""The page of the architecture is what the code is, and folders stay small."""

from collections import Counter
from pathlib import Path

import services
from docs.draw_architecture import PAGE, page
from docs.draw_diagram import files


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `make architecture`"


def test_the_diagrams_are_up_to_date():
    for file, text in files().items():
        assert file.read_text() == text, "run `make architecture`"


def test_no_folder_of_source_holds_more_than_fourteen_modules():
    """But `cli`, which has a module a command."""
    root = Path(services.__file__).parent.parent
    folders = Counter(
        module.parent
        for name in ("services", "features", "monitoring", "infra", "loadtest")
        for module in (root / name).rglob("*.py")
        if module.name != "__init__.py"
    )
    assert {path: n for path, n in folders.items() if n > 14 and path.name != "cli"} == {}
