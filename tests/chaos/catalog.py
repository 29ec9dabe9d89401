"""All faults, in the order of the README's table: each group is a file of this folder."""

from tests.chaos import (
    changes,
    clusters,
    models,
    processes,
    rows,
    stores,
    submitted,
    table_store,
    writes,
)

FAULTS = (
    *processes.FAULTS,
    *writes.FAULTS,
    *clusters.FAULTS,
    *submitted.FAULTS,
    *changes.FAULTS,
    *table_store.FAULTS,
    *stores.FAULTS,
    *rows.FAULTS,
    *models.FAULTS,
)
