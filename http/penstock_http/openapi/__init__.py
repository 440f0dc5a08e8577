"""`/openapi.json`: what the service answers, said for programs."""
