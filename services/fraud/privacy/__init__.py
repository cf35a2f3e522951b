"""Step 8, privacy: federated learning; banks train one model together, and no row leaves its bank.

Flower's SuperLink coordinates, and each bank runs a SuperNode of its own. A round sends the common
network to the banks, each trains it further on its rows, and the server averages the weights
(FedAvg; FedProx adds a pull to the common weights). What one bank has never seen, rings or a
compromised merchant, another has, so the bank with hardly any fraud gains most. The result enters
the registry as the candidate `federated`, and shadow mode and gate decide as for any other.

Boosted trees are the stronger model, but a tree names its split points and leaf values: bagged
trees can be neither summed under masks nor made private, and summed histograms tell every node's
label counts. Weights of a network can: secure aggregation shows the server the sum alone, and
DP-SGD inside a bank bounds what the sum tells about one customer. Both cost: with a few thousand
customers the noise takes most of the gain. Secure and robust aggregation exclude each other: Krum
and the trimmed mean must see each update to refuse a falsified one.

Pooling the rows would be better still, since features aggregated over all banks see a merchant's
chargebacks everywhere; it is what banks may not do. docs/privacy.md has the figures, and what is
not protected.
"""
