"""Clients of the online store, one Redis or a cluster as the settings say."""

from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from features.cluster.link import ClusterLink
from features.cluster.rows import ClusterRowStore
from features.cluster.topology import ClusterUrl, is_cluster
from features.online.row_store import Fence, RowStore
from features.redis_connection import RedisConnection, RedisLink
from features.spec import View
from services.platform.settings import Settings


def open_link(config: Settings) -> RedisLink:
    """A shared connection, which opens at its first call. ValueError: the URL is wrong."""
    if is_cluster(config.redis):
        return ClusterLink(config.redis, config.shards)
    return RedisConnection(config.redis)


def open_redis(config: Settings, **options: Any) -> Redis:
    """A blocking client. One of a cluster knows by how many shards rows lie.

    Args:
        options: As for redis-py, such as `socket_timeout`.

    Raises:
        ValueError: the URL is wrong.
        redis.RedisError: no node of a cluster answers; one Redis is not asked yet.
    """
    if not is_cluster(config.redis):
        return Redis.from_url(config.redis, **options)
    url = ClusterUrl.parse(config.redis)
    parsed = Redis.from_url(url.node(url.seeds[0])).connection_pool.connection_kwargs
    account = {k: parsed[k] for k in ("username", "password") if k in parsed}
    seeds = [ClusterNode(host, port) for host, port in url.seeds]
    try:
        made = _ShardedCluster(
            startup_nodes=seeds, ssl=url.scheme == "rediss", require_full_coverage=False,
            **account, **options,
        )  # fmt: skip
    except RedisClusterException as error:
        raise RedisConnectionError(str(error)) from error
    made.shards = config.shards
    # Not a subclass of Redis, but it has the methods that are called.
    return cast(Redis, made)


class _ShardedCluster(RedisCluster):
    """A client of a cluster.

    Attributes:
        shards: Shards of each entity, by which its rows lie.
    """

    shards: int

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a command. Raises redis.RedisError, of which redis-py's own are no kind."""
        try:
            return super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error


def row_store(
    link: RedisLink, views: Sequence[View], fence: Fence | None = None
) -> RowStore | ClusterRowStore:
    """A store of rows behind a link."""
    if isinstance(link, ClusterLink):
        return ClusterRowStore(link, views, fence)
    assert isinstance(link, RedisConnection)
    return RowStore(link, views, fence)
