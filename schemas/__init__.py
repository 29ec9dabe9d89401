"""What crosses a boundary: manifests, the enriched table, configs, results and errors."""
