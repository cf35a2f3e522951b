"""The image route: photographs as they are, maps by the one colour scale."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from services.platform.settings import Settings
from services.walkthrough import app as module


@pytest.fixture
def client(monkeypatch):
    levels = np.zeros((40, 60), np.uint8)
    levels[10:30, 10:30] = 255
    out = io.BytesIO()
    Image.merge("LA", [Image.fromarray(levels), Image.fromarray(0 * levels)]).save(out, "PNG")

    class Bucket:
        def __init__(self, _config, bucket):
            self.bucket = bucket

        def get(self, key):
            if (self.bucket, key) != (Settings().results, "a/1.map.png"):
                raise FileNotFoundError(key)
            return out.getvalue()

    monkeypatch.setattr(module, "Lake", Bucket)
    transport = httpx.ASGITransport(module.create_api(Settings()))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def test_a_map_is_coloured_by_its_channel(client):
    first, second, none = [
        await client.get(f"/api/image?key=a/1.map.png&channel={channel}") for channel in (0, 1, 2)
    ]
    colours = np.asarray(Image.open(io.BytesIO(first.content)))
    assert colours.shape == (40, 60, 4)
    assert colours[10, 10].tolist() == [255, 255, 255, 255]
    assert colours[0, 0, 3] == 0
    assert not np.asarray(Image.open(io.BytesIO(second.content)))[..., 3].any()
    assert none.status_code == 404
    assert (await client.get("/api/image?key=a/1.map.png")).status_code == 404
    bar = await client.get("/api/scale")
    assert Image.open(io.BytesIO(bar.content)).size == (256, 12)
