"""How a table is enriched: one operator a file, each an Arrow table in, an Arrow table out."""
