"""The command `penstock serve`: start, listen, shut down."""
