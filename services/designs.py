"""The designs of this installation: a design is a folder and one name here."""

from services.cv_inspection.design import INSPECTION
from services.fraud.design import FRAUD
from services.platform.design import Design

DESIGNS: tuple[Design, ...] = (FRAUD, INSPECTION)
