"""Read and check requests: hosts and origins, tokens, media types, parameters and bodies."""
