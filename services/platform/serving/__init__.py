"""The shell that every decision service runs in."""
