"""An installation of one design, which is up in a minute."""

from services.fraud.design import FRAUD

DESIGNS = (FRAUD,)
