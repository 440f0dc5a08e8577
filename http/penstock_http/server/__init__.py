"""`penstock serve`: flows over HTTP."""
