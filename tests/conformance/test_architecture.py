"""The page of the architecture is what the code is."""

from docs.draw_architecture import PAGE, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `make architecture`"
