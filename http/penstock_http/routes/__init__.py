"""The handlers: read, ask the flow, answer."""
