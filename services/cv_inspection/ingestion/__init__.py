"""Step 2, data ingestion: an image lands in S3, and the store itself says so.

A station PUTs into `inbox/<line>/<station>/<lot>/<frame>.jpg`; the store's webhook posts the event
to `POST /events/s3`, which puts it on a durable stream, and workers take it from there. Why does
the camera not call the inspector? It would have to wait, retry and keep what it could not send; a
store is made for that, and whatever else wants the image finds it there. Events can come twice or
never: what is inspected is known by the image's place and content, and a reconciliation asks the
store itself what was missed.

A picture is judged only if it is what a camera sends; everything else is named and put aside.
"""
