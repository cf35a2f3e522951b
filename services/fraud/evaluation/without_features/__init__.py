"""What hours without the online store cost: in the running stack, in memory, and of one fault."""

# An hour without the online store may cost so many times as much as an ordinary one.
MAX_RATIO = 1.5
