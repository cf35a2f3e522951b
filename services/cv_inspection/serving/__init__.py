"""Step 5, serving: `POST /inspect` answers within 50 ms at the 95th percentile.

A picture is decoded, scaled, looked at and decided on in a thread of a small pool: ONNX Runtime and
Pillow release the interpreter, so the event loop goes on answering. What does not fit the pool's
queue is refused with 503 at once: a queue that grows answers everybody late. Why no GPU? A line
sends some pictures a second, and at 5 ms each one core keeps up with ten lines; the same file runs
on an edge device beside the camera.

The same process takes the store's notices (`POST /events/s3`) and a person's verdicts
(`POST /verdict`), and puts both on the stream.
"""
