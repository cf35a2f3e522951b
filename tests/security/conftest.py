"""The same connection as the integration tests': empty streams, store and lake."""

from tests.integration.conftest import nc

__all__ = ["nc"]
