"""The online store in a Redis Cluster: its rows lie by shard, a node has the shards of its slots.

`WHITEBOARD_REDIS_HOST=a:6379,b:6379,c:6379`, or a URL `redis+cluster://user:password@a:6379,...`,
says that the online store is one. Rows of a shard lie in one slot: their keys begin with the
shard's hash tag, `{7}`. So a worker writes the rows of a shard in one transaction, on the condition
that it owns the shard: Redis' transactions span no two slots, and no account may run scripts
(docs/adr/0026). A request asks each node once.

A failing node affects its own shards alone. A request leaves out their rows and is decided by the
cached ones; a feature worker goes on with the other nodes' shards. It acknowledges nothing
meanwhile, and reads what it left out again once the node answers.
Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.
"""
