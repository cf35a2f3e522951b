"""Step 7, retraining: every night from where the champion stands, and only through the gate.

The night trains the champion on with what was decided and labelled since, and enters the result
as a challenger. A challenger, from the night or from `swap`, is judged by the newest labelled days,
which no model here is ever trained on, and by how it does in shadow mode beside live traffic.
Why not train from scratch on everything? It takes longer each night and changes what need not
change; `swap` does it when a person asks.

Labels are two weeks late by nature. The night does not guess them: it says that there are too few.
"""
