"""The token of this machine's page: it is in the URL that `up` prints, behind the #."""

import os
import secrets

from services.platform.design import WALKTHROUGH
from services.platform.settings import Settings


def page_token(config: Settings) -> str:
    """The setting `admin_token`, or a token of this home, made once. OSError: it can't be stored.

    The file is readable by its owner alone.
    """
    if token := config.admin_token.get_secret_value():
        return token
    path = config.home / "conf" / "walkthrough-token"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(token := secrets.token_urlsafe(24))
    return token


def page_url(config: Settings) -> str:
    """The page's address with its token. A browser sends nothing behind the # to a server."""
    return f"{WALKTHROUGH.url(config)}/#token={page_token(config)}"
