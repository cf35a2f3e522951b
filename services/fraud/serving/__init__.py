"""Step 5, serving: `POST /score` answers within 50 ms at the 95th percentile, even in an outage.

One Redis round trip, one computation of the features, one ONNX call; the decision is published
off the hot path. Why not call the feature store's SDK and the training library? They would bring
protobuf, pandas and the training stack into every request and into the image, for the same bytes.

Without Redis, the fallback in the champion's file decides by the request and the rows that the
scorer read last, and the answer is marked `degraded`: the champion itself declines far too much.
Without NATS, decisions wait in the outbox. An invalid model file is refused and the champion stays.
"""
