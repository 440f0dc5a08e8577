"""The command `penstock serve`: start, listen, stop."""
