"""Retraining: challengers, shadow mode, the gate, the scheduler, and the admin routes."""
