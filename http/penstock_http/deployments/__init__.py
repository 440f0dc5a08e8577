"""Deployments: load flows, and add, replace and remove the revisions that are served."""
