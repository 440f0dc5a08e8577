"""What a request says: who asks, in which format, with which body."""
