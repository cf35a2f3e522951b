"""The lake's tables of this design, and which decisions of them count."""

import pyarrow.compute as pc

TRANSACTIONS_TABLE = "fraud/transactions"
LABELS_TABLE = "fraud/labels"
DECISIONS_TABLE = "fraud/decisions"
TRUTH_TABLE = "fraud/truth"
STATE_LOG = "fraud/states"

# REAL leaves out load tests' decisions; WHOLE those taken without the online store, too.
REAL = ~pc.field("synthetic")
WHOLE = REAL & ~pc.field("degraded")
