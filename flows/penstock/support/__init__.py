"""General helpers that know nothing of flows."""
