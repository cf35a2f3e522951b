"""Step 8, edge: an INT8 model beside the camera; the line needs no network.

The champion is quantised to INT8 (`quantisation.py`), and the build is refused where its decisions
cost too much more. The device decides by the same function as the stack (`serving.inspect`).
Inspections are kept in SQLite and forwarded when the network is back, each with its identity. A
power cut or a line that inspects while it forwards loses none; one that is sent again, because its
acknowledgement was lost, is counted once. Why not a stream at the edge? It is one more server on
every device, for a queue with one writer and one reader.
"""
