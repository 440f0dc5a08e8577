"""The flows that are served: their revisions, where they come from, and how one takes the place of another."""
