"""General helpers, independent of flows."""
