"""Step 2, data ingestion: an image lands in S3, and the store sends a notification.

A station PUTs into `inbox/<line>/<station>/<lot>/<frame>.jpg`; the store's webhook posts a
notification to `POST /events/s3`, which puts an event on a durable stream, and workers consume it.
Why does the camera not call the inspector? It would have to wait, retry and keep what it could not
send; a store is made for that, and other consumers find the image there, too. Events can arrive
twice or never: an inspection is identified by the image's key and content, and a reconciliation
lists the store for images that were missed.

Only images that a camera sends are inspected; every other file is rejected with a reason.
"""
