"""Request handlers, one module per path."""
