"""Part of step 5, review: who gets one of the few analysts' minutes, decided by money.

A decision is the outcome of least expected cost. Reviewing competes for a fixed number of slots, so
a slot has a price that rises as the queue fills: cases worth less than it are approved or declined,
and the queue keeps its service time. A fixed review rate wastes slots at night and overflows in a
wave of fraud; a priority queue keeps cases that are never begun.
"""
