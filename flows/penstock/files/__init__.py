"""Flows written down: read, checked, and shown as a picture."""
