"""The engines as processes of this machine."""
