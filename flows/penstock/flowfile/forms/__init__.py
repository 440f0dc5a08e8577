"""Forms: what a part of a flow file may contain, and the JSON Schema for it."""
