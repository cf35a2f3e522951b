"""The hot paths to Redis: read the states that a request needs, write the folded states back.

Both use the layout of Feast's Redis online store, computed once per state, so that a request costs
one round trip and no protobuf: a row's value is a fixed header and the raw float64s. Feast's
`get_online_features` reads what is written here and the reverse; contract tests check it.

`layout` has the keys and the encoding, `reader` what a request reads, `row_store` what a feature
worker reads and writes while it owns the rows, `table` all rows of a view for backfills.
"""
