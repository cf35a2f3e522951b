"""Kubernetes manifests, generated from `Design`: `make kubernetes` writes them."""
