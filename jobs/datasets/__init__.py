"""Readers of the field's data sets and predictions, one format a file; each yields typed tables."""
