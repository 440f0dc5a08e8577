"""The command line: `penstock COMMAND ...`."""
