"""Several processes that serve as one: a parent that starts and watches them, and the channel between it and each."""
