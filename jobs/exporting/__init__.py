"""Formats that an enriched table is exported to, one a file; `jobs.export` is their list."""
