"""Step 2, data ingestion: what a transaction is, and how it travels.

Transactions and labels share one stream and so one sequence: state can be rebuilt as of any
point in it. The subject carries a shard for every entity, so each entity's events can be read
alone and in order by the one worker that owns it, without a shuffle. Why not a topic with one
partition key? A transaction belongs to a customer, a merchant, a device and an address at once,
and whichever key wins, the other three have several writers.

Money is integer minor units and time is UTC microseconds; both become float64 in features only.
"""
