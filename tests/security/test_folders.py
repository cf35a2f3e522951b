"""Attacks by what lies in a folder; each must fail."""

import os
import pickle
import stat

import pytest

from services.platform.run import enter_empty_folder
from services.platform.settings import Settings


def test_a_service_works_in_an_empty_folder_that_only_its_owner_enters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHITEBOARD_HOME", raising=False)
    (tmp_path / "home").mkdir()
    config = Settings(home="home")
    enter_empty_folder(config)
    assert os.listdir() == []
    assert stat.S_IMODE(os.stat(".").st_mode) == 0o700
    # What it starts, and reads later, is still in its home.
    assert os.environ.pop("WHITEBOARD_HOME") == str(tmp_path / "home")


class Payload:
    """Runs as it is read."""

    def __init__(self, mark) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.e2e
def test_nothing_in_feasts_folder_is_run(config, tmp_path):
    from features.store import open_store
    from services.fraud.features.states import FEATURE_SET

    folder = config.home / "feast"
    folder.mkdir(exist_ok=True)
    mark = tmp_path / "ran"
    for name in ("fraud.db", f"fraud-{os.getpid()}.db"):
        (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    store = open_store(config, FEATURE_SET)
    assert store.list_feature_services()
    assert not mark.exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
