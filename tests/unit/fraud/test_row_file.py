"""The cache of rows survives a restart, and a bad file spoils nothing."""

import asyncio
import os

import numpy as np
import pytest

from services.fraud.features.states import STATES
from services.fraud.serving import row_file
from services.fraud.serving.row_cache import MAX_WAITING, RowCache


def filled(count=5):
    cache = RowCache(STATES)
    for n in range(count):
        keys = {entity: f"{entity}-{n}" for state in STATES for entity in state.keys}
        keys["ip"] = None if n == 2 else keys["ip"]
        cache.keep(keys, {s.name: np.full((1, s.width), float(n)) for s in STATES})
    return cache


def everything(cache):
    return {name: {k: row.tolist() for k, row in cache.kept(name)} for name in cache.views}


def test_what_is_written_is_read():
    cache, again = filled(), RowCache(STATES)
    again.add_older(row_file.decode(row_file.encode({v: cache.kept(v) for v in cache.views})))
    assert everything(again) == everything(cache)
    assert len(again) == len(cache) > 0
    assert [key for key, _ in again.kept(STATES[0].name)] == [
        key for key, _ in cache.kept(STATES[0].name)
    ]


async def test_a_restarted_scorer_has_the_rows_of_the_last_run(tmp_path):
    cache, again = filled(), RowCache(STATES)
    path = tmp_path / "scorer" / "rows.npz"
    await row_file.save(cache, path)
    await row_file.load(again, path)
    assert everything(again) == everything(cache)
    assert [one.name for one in path.parent.iterdir()] == ["rows.npz"]


async def test_rows_that_were_read_meanwhile_are_newer(tmp_path):
    again, path = filled(1), tmp_path / "rows.npz"
    old = filled(2)
    old.kept(STATES[0].name)[0][1][:] = 99.0
    await row_file.save(old, path)
    await row_file.load(again, path)
    assert [row.item(0) for _, row in again.kept(STATES[0].name)] == [1.0, 0.0]


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
async def test_a_file_that_is_cut_short_is_ignored_with_a_reason(tmp_path, caplog, cut):
    path, cache = tmp_path / "rows.npz", filled()
    await row_file.save(cache, path)
    path.write_bytes(path.read_bytes()[:cut])
    again = RowCache(STATES)
    await row_file.load(again, path)
    assert len(again) == 0
    assert "rows.npz is ignored" in caplog.text


async def test_rows_of_another_feature_set_are_ignored(tmp_path, caplog, monkeypatch):
    path = tmp_path / "rows.npz"
    await row_file.save(filled(), path)
    other = row_file.FEATURE_SET.__class__
    monkeypatch.setattr(other, "hash", property(lambda _: "another"))
    again = RowCache(STATES)
    await row_file.load(again, path)
    assert len(again) == 0
    assert "another feature set" in caplog.text


async def test_a_missing_file_is_no_matter(tmp_path, caplog):
    await row_file.load(RowCache(STATES), tmp_path / "rows.npz")
    assert caplog.text == ""


async def test_a_folder_that_cannot_be_written_is_logged(tmp_path, caplog):
    (tmp_path / "file").touch()
    await row_file.save(filled(), tmp_path / "file" / "rows.npz")
    assert "rows are not saved" in caplog.text


async def test_it_is_saved_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, "_SAVE_INTERVAL_S", 0.01)
    task = asyncio.create_task(row_file.save_forever(filled(), tmp_path / "rows.npz"))
    async with asyncio.timeout(20):
        while not (tmp_path / "rows.npz").exists():
            await asyncio.sleep(0.01)
    task.cancel()


def test_rows_that_no_request_read_go_first():
    first = STATES[:1]
    cache = RowCache(first, max_rows=3)

    def rows(*numbers):
        return [((f"c{n}",), np.full((1, first[0].width), float(n))) for n in numbers]

    assert cache.add_older({first[0].name: rows(1)})
    assert not cache.add_older({first[0].name: rows(2, 3, 4)})
    cache.keep({"customer_id": "c9"}, {first[0].name: rows(9)[0][1]})
    cache.keep({"customer_id": "c2"}, {first[0].name: rows(8)[0][1]})
    kept = {key: row.item(0) for key, row in cache.kept(first[0].name)}
    assert kept == {("c3",): 3.0, ("c9",): 9.0, ("c2",): 8.0}
    with pytest.raises(ValueError, match="nowhere"):
        cache.add_older({"nowhere": rows(1)})


def test_of_more_requests_than_it_sorts_the_newest_stay():
    cache = filled(MAX_WAITING + 100)
    name = STATES[0].name
    assert [row.item(0) for _, row in cache.kept(name)][:: MAX_WAITING - 1] == [100.0, 599.0]
    cache = RowCache(STATES)
    for n in range(0, MAX_WAITING + 100, 100):
        for i in range(n, n + 100):
            cache.keep({"customer_id": f"c{i}", "device_id": "d", "merchant_id": "m", "ip": "i"},
                       {s.name: np.full((1, s.width), float(i)) for s in STATES})  # fmt: skip
        cache.absorb()
    assert len(cache.kept(name)) == MAX_WAITING + 100


def test_the_newest_file_of_all_processes_is_read(tmp_path):
    own = tmp_path / "scorer-1" / "rows.npz"
    assert row_file.newest(own, "scorer") == own
    for number, folder in enumerate(("scorer-1", "scorer", "scorer-x")):
        path = tmp_path / folder / "rows.npz"
        path.parent.mkdir()
        path.touch()
        os.utime(path, (number, number))
    assert row_file.newest(own, "scorer") == tmp_path / "scorer" / "rows.npz"
