"""Step 5, serving: `POST /score` answers within 50 ms at the 95th percentile, even in an outage.

One Redis round trip, one computation of the features, one ONNX call; the decision is published
off the hot path. Why not call the feature store's SDK and the training library? They would bring
protobuf, pandas and the training stack into every request and into the image, for the same bytes.

Without Redis, the scorer decides on the request features alone and marks the answer `degraded`.
Without NATS, decisions wait in the outbox. An invalid model file is refused and the champion stays.
"""
