"""`/openapi.json`: the OpenAPI description of the service."""
