"""Step 2, data ingestion: what a transaction is, and how it travels.

Transactions and labels share one stream and so one sequence: states can be rebuilt as of any point
in it. Feature workers share the rows by shard, and each reads the events in order, without a
shuffle. Why not a topic with one partition key? A transaction belongs to a customer, a merchant, a
device and an IP address at once, and with one of them as the key the other three would have several
writers. So the subject holds a shard for every entity.

Money is integer minor units and time is UTC microseconds; only features convert them to float64.
"""
