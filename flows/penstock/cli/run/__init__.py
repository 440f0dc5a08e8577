"""The command `penstock run`."""
