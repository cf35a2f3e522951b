"""Step 8, edge: a small model beside the camera; the line needs no network.

The champion becomes INT8 (`quantisation.py`), and is refused where it costs more than it saves. At
the edge the same look decides as in the stack (`inspection.inspect`). What was seen is kept in
SQLite, and forwarded when the stack is back, each inspection under its identity: a power cut, a
line that runs while it forwards, an answer that got lost cost nothing. Why not a stream at the
edge? One more server on every device, for a queue with one writer and one reader.
"""
