"""How the model's outcome and the rules' actions become one outcome."""

from collections.abc import Collection

from services.fraud.ingestion.events import Outcome


def combine(model_outcome: Outcome, fired_actions: Collection[str]) -> Outcome:
    """The outcome of a decision.

    The first that applies counts:

    1. A `decline` rule declines. It states what is known, such as a stolen device, and an allowlist
       proves nothing about who holds the card today. A wrong decline costs OPEX; a wrong
       approval costs the amount and the fee.
    2. An `approve` rule approves: an allowlist that the model overrules would do nothing.
    3. A `review` rule turns an approval into a review. It never softens a decline of the model.
    4. Otherwise the model decides. `observe` rules change nothing.

    Args:
        model_outcome: What the model's policy chose.
        fired_actions: The actions of the rules that fired, in any order.

    Examples:
        >>> combine("approve", ["approve", "decline"]), combine("decline", ["approve", "review"])
        ('decline', 'approve')
        >>> combine("approve", ["review"]), combine("decline", ["review"])
        ('review', 'decline')
        >>> combine("approve", ["observe"])
        'approve'
    """
    if not fired_actions:
        return model_outcome
    if "decline" in fired_actions:
        return "decline"
    if "approve" in fired_actions:
        return "approve"
    if "review" in fired_actions and model_outcome == "approve":
        return "review"
    return model_outcome
