"""Checkpoints: runs of `penstock run` that continue after a kill."""
