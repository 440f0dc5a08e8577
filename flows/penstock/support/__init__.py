"""General helpers, which know nothing of flows."""
