"""Dead letters in a SQLite file, in `store`. Nothing is imported here, so that its subprocess starts fast."""
