"""Which flows are served: loading, replacing and removing their revisions."""
