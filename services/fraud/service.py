"""Where the scorer is and what it answers: for its processes and for those that call it."""

from services.platform.access import Access
from services.platform.design import HttpApp

SCORER = HttpApp(
    "scorer",
    "services.fraud.serving.app:create_app",
    "/score",
    18080,
    shares_port=True,
    access=Access(
        redis="read",
        # Verdicts and costs: people's, by routes that need a token.
        publishes=("fraud.decision.>", "fraud.verdict.>", "control.fraud"),
        consumes=("FRAUD_REVIEWS",),
        reads=("MODEL_HISTORY", "FRAUD_VERDICTS"),
        makes=("FRAUD_REVIEWS",),
        watches=("models", "rules", "fraud_reasons"),
        keeps=("FRAUD_COSTS",),
        downloads=("rule_lists",),
        loads=("lake",),
        tokens=("admin_token", "analyst_token", "client_token", "label_token"),
    ),
)
