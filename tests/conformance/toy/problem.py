"""Step 1, problem and KPI: a parcel over its limit breaks a belt.

Opening a parcel costs a minute, a broken belt an hour.
"""

from services.platform.evaluation.cost import CostModel

LATENCY_BUDGET_MS = 50.0
COST = CostModel(opex=100, fee=6_000)
