"""The paper's tables: from a list of rows to runs, records and a table beside the paper's (chapters 8 and 9)."""
