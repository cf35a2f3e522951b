"""The designs, what they share, and the command line."""
