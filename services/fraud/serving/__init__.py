"""Step 5, serving: `POST /score` answers within 50 ms at the 95th percentile, whatever is down.

One Redis round trip, one reading of the accumulators, one ONNX call; the decision is published
off the hot path. Why not call the feature store's SDK and the training library? They would bring
protobuf, pandas and the training stack into every request and into the image, for the same bytes.

Redis gone: the transaction's own features decide, and the answer says `degraded`. NATS gone:
decisions wait in the outbox. A bad model file: the champion stays.
"""
