"""Conversion between bytes and values: NDJSON and CSV."""
