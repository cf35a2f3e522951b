"""The token of this machine's page: it is in the URL that `up` prints, behind the #."""

from services.platform.design import WALKTHROUGH
from services.platform.secret_files import make_secret
from services.platform.settings import Settings

_SECRET = "walkthrough-token"


def page_token(config: Settings) -> str:
    """The setting `admin_token`, or a token of this home, made once. OSError: it is not stored."""
    return config.admin_token.get_secret_value() or make_secret(config.home, _SECRET)


def page_url(config: Settings) -> str:
    """The page's address with its token. A browser sends nothing behind the # to a server."""
    return f"{WALKTHROUGH.url(config)}/#token={page_token(config)}"
