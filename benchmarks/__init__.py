"""Measurements behind the figures in docs/; each says how to run it.

The settings are imported first, because libraries read their defaults when they are loaded.
"""

from services.platform import settings  # noqa: F401
