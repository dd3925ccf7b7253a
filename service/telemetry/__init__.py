"""Prometheus instruments on an injected registry, and structured logs."""
