"""Where the scorer is and what it answers: for its processes and for those that call it."""

from services.platform.access import Access
from services.platform.design import HttpApp

SCORER = HttpApp(
    "scorer",
    "services.fraud.serving.app:create_app",
    "/score",
    18080,
    access=Access(
        redis="read",
        publishes=("fraud.decision.>", "control.fraud"),
        reads=("MODEL_HISTORY",),
        watches=("models",),
        loads=("lake",),
    ),
)
