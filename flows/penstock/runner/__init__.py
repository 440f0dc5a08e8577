"""Commands that run flows and begin new ones: `penstock run`, `penstock new`, `penstock completion`."""
