"""Penstock over HTTP: flows served as streams, dead letters, metrics, health."""
