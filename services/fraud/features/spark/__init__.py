"""Backfill on Spark: the lake's events folded by shard, with the kernel of the embedded backfill.

One job an entity type: read the files of the lake, `repartition` by entity into shards,
`sortWithinPartitions("seq")`, `mapInArrow(fold)`. All events of an entity are in one shard, in the
order of the stream, which is all that a fold needs. Spark sorts on disk, and a fold holds one chunk
of events and the rows of its shard, so memory does not grow with the events.

A state that counts first transactions of another (`Measure.first_of`) is folded with it, in one
shard: a pair's shard is its device's (`State.shard`). docs/spark.md tells the rest.
"""
