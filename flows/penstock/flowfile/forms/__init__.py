"""Forms: declare what a document may contain, validate it, and describe it as JSON Schema."""
