"""Step 3, feature groups: what a model may know about a transaction at the moment it is asked.

Four groups: the transaction itself, the customer's behaviour, the risk of its device and IP
address, and the merchant's profile. All but the first are readings of accumulators, taken at
request time by the very function that reads them for training. Two more are there for the
candidates that ask for them: the items of the cart, and every party's place in the graph of who
buys where, written nightly.

Why not windows (count in the last hour, day, week) written by a batch job? They are stale the
moment they are written, a sliding window needs the events themselves, and the SQL that makes them
for training is not the code that makes them online. A decayed sum costs eight bytes, updates in
nanoseconds, is exact at any time of reading, and has one implementation.
"""
