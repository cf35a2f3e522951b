"""The walkthrough: one page on which the designs are seen running, asked and broken.

A process of its own that reads what the others show: metrics, streams, the lake. It knows designs
only through `Design`. While no browser watches, it reads nothing.
"""
