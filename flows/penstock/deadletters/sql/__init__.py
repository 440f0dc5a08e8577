"""Dead letters in SQL databases: the table, its queries, and its rows."""
