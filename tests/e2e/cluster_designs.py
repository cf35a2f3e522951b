"""The designs of the cluster's test: training an image model would add minutes and no engine."""

from services.fraud.design import FRAUD

DESIGNS = (FRAUD,)
