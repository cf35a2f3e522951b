"""The file of a role: signed where promotion puts it, verified where it is read.

The last one that was served is kept here, and serves where the store has none that can be read.
"""

import logging
import os
from contextlib import suppress

from services.platform.models.checks.signature import Statement, sign, split, verified
from services.platform.models.names import CHALLENGER, CHAMPION, served_path
from services.platform.models.onnx import open_session, read_card
from services.platform.models.refused import ModelRefused
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

# Twenty times our largest.
MAX_FILE_BYTES = 256 * 2**20

log = logging.getLogger(__name__)


def put_served(settings: Settings, data: bytes, design: str, role: str, version: int) -> None:
    """Sign a model file and put it where a role's processes load it."""
    Lake(settings).put(served_path(design, role), sign(settings, data, design, role, version))


def read_signed(settings: Settings, design: str, role: str) -> bytes:
    """The signed file of a role, not verified yet.

    Raises:
        ModelRefused: it is too large to be read.
        FileNotFoundError, OSError: there is none; the store does not answer.
    """
    data = Lake(settings).get(served_path(design, role), MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ModelRefused(f"larger than {MAX_FILE_BYTES // 2**20} MB")
    return data


def get_served(settings: Settings, design: str, role: str = CHAMPION) -> bytes:
    """The model file of a role.

    Raises:
        ModelRefused: promotion did not sign it, or it is too large to be read.
        FileNotFoundError, OSError: there is none; the store does not answer.
    """
    return verified(settings, read_signed(settings, design, role), design, role)[0]


def sign_unsigned(settings: Settings, design: str) -> bool:
    """Sign the champion and challenger of a home from before files were signed.

    Returns:
        Whether there were any.

    Raises:
        OSError: the store does not answer.
    """
    found = False
    for role in (CHAMPION, CHALLENGER):
        with suppress(FileNotFoundError, ModelRefused):
            data = read_signed(settings, design, role)
            if not split(data)[1]:
                version = read_card(open_session(data, optimised=False), design).version
                put_served(settings, data, design, role, version)
                found = True
    return found


class LastGood:
    """The newest signed file of a role that was served here. It survives restarts."""

    def __init__(self, settings: Settings, design: str, role: str) -> None:
        self._settings = settings
        self._names = design, role
        self._path = settings.home / "models" / f"{design}-{role}.onnx"

    def read(self) -> tuple[bytes, Statement] | None:
        """Model and statement; None without a copy. ModelRefused if it was changed."""
        try:
            return verified(self._settings, self._path.read_bytes(), *self._names)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelRefused(f"the last good copy cannot be read: {error}") from None

    def keep(self, signed: bytes) -> None:
        """Keep a signed file that is served now. Another process may keep the same one."""
        partial = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(signed)
            partial.replace(self._path)
        except OSError as error:
            log.warning("no last good copy is kept: %s", error)
