"""Step 5, serving: `POST /inspect` answers within 50 ms at the 95th percentile.

An image is decoded, resized, inspected and decided on in a thread of a small pool: ONNX Runtime and
Pillow release the GIL, so the event loop continues to answer. Requests beyond the pool's queue get
a 503 at once: a growing queue would delay every answer. Why no GPU? An image takes 14 ms of a core,
of which the network takes 5 to 6, so a core inspects 71 images a second, and a line sends a few;
the same file runs on an edge device beside the camera.

The same process accepts the store's notifications (`POST /events/s3`) and operators' labels
(`POST /verdict`), and publishes both on the stream. A label names an inspection that was made: it
trains models, so one of nothing is refused.
"""
