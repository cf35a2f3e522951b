"""What hours without the online store cost: in the running stack, and in memory."""

# An hour without the online store may cost so many times as much as an ordinary one.
MAX_RATIO = 1.5
