"""Step 3, feature groups: what a model knows about a transaction when the request arrives.

Four groups: the transaction itself, the customer's behaviour, the risk of its device and IP
address, and the merchant's profile. All but the first are read from accumulators at request time,
by the same function that reads them for training. Two more exist for the candidates that ask for
them: the items of the cart, and an embedding of each party in the transaction graph, refreshed
nightly.

Why not windows (count in the last hour, day, week) written by a batch job? They are out of date as
soon as they are written, a sliding window needs the events themselves, and the SQL that computes
them for training is other code than the online computation. A decayed sum takes eight bytes, is
updated in nanoseconds, is exact at any time of reading, and has one implementation.
"""
