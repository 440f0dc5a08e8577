"""Clients of servers that are optional. Each module needs the extra of the same name."""
