"""The dead-letter store in a SQLite database file."""
