"""`penstock run`: run a flow once over a file, a pipe, samples or the source of a worker."""
