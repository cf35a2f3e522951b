"""Where the inspector is and what it answers: for its processes and for those that call it."""

from services.platform.access import Access
from services.platform.design import HttpApp

INSPECTOR = HttpApp(
    "inspector",
    "services.cv_inspection.serving.app:create_app",
    "/inspect",
    18081,
    "/events/s3",
    access=Access(
        publishes=("cv.image.>", "cv.verdict.>", "cv.inspection.>", "cv.dead.>", "control.cv"),
        reads=("MODEL_HISTORY", "CV_DECISIONS"),
        watches=("models",),
        loads=("lake",),
        tokens=("admin_token", "client_token", "label_token", "webhook_token"),
    ),
)
