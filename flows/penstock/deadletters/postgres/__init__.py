"""The PostgreSQL dead-letter store."""
