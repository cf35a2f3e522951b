"""Rules beside the model. A rule states known facts; the model estimates probabilities.

A rule is data: a CEL expression over the request's fields, the features and the score, and an
action. A set of rules is an immutable version that scorers take while they run, as they take a
model. Why not rules in code? A fraud analyst changes them within minutes, and the audit has to
recompute which rules of which version fired.

Why not rules alone? `whiteboard rules fraud try FILE` measures what each rule earns on top of the
model and the other rules; most expert rules earn nothing there (docs/rules.md). What the model
cannot know earns: lists of stolen devices, or an attack that began an hour ago.
"""
