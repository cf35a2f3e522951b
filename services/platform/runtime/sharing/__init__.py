"""Several processes of one HTTP service on one machine: one port, one page of metrics (ADR 25)."""
