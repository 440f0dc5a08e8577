"""Streaming results to a client, and watching whether it still reads."""
