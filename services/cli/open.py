"""`whiteboard open`."""

import webbrowser

from services.cli.options import JsonOption
from services.cli.output import out, show_json
from services.platform.settings import settings
from services.walkthrough.token import page_url


def open(as_json: JsonOption = False) -> None:  # noqa: A001, the command's name
    """Open the walkthrough in a browser, with this machine's token, and print its address.

    Examples:
      whiteboard open
      whiteboard open --json
    """
    url = page_url(settings())
    if as_json:
        show_json({"url": url, "opened": False})
        return
    opened = webbrowser.open(url)
    out.print(url, markup=False, highlight=False, soft_wrap=True)
    if not opened:
        out.print("no browser here: open this address in one", highlight=False)
