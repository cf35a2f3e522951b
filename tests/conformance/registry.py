"""The designs of this installation and one more: all that a new design changes elsewhere."""

from services.designs import DESIGNS as BUILT
from tests.conformance.toy.design import TOY

DESIGNS = (*BUILT, TOY)
