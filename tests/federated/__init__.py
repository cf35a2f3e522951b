"""Tests that run in the banks' environment: `make test-federated`."""
