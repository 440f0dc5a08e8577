"""Merge what the processes of a service report into one response. Pure functions, without I/O."""
