"""Grouping rows that are alike: connected components, without a list of all pairs.

Rows are numbered; the component of a row is told by its root, the smallest number in it. Joining
hooks larger roots onto smaller ones and shortens the paths, all rows at once (Shiloach and Vishkin
1982), so a block in which everything is alike costs no more than a pass over it.
"""

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 2048  # a block of similarities is 16 MB, its pairs at most 64 MB
ROUNDING = 1e-6  # cosines in float32, summed in another order

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def joined(roots: Rows, left: Rows, right: Rows) -> Rows:
    """Joins the components of pairs of rows.

    Args:
        roots: of every row, the smallest row of its component.
        left: rows, each alike to the one of `right` at its place.
        right: as many.

    Returns:
        The roots then.
    """
    roots = roots.copy()
    while True:
        one, other = roots[left], roots[right]
        is_apart = one != other
        if not is_apart.any():
            return roots
        left, right, one, other = (x[is_apart] for x in (left, right, one, other))
        np.minimum.at(roots, np.maximum(one, other), np.minimum(one, other))
        while True:
            nearer = roots[roots]
            if np.array_equal(nearer, roots):
                break
            roots = nearer


def equal_rows(values: npt.NDArray[np.int64]) -> Rows:
    """The roots of rows with equal values; a negative value equals no other."""
    rows = np.arange(len(values))
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.where(values < 0, rows, first[inverse]).astype(np.int64)


def near_rows(roots: Rows, rows: Rows, vectors: Vectors, similarity: float) -> Rows:
    """Joins rows whose vectors are near each other; every pair is compared.

    Args:
        roots: of all rows.
        rows: that have a vector.
        vectors: theirs, of unit length.
        similarity: cosine from which on two are near.

    Returns:
        The roots then.
    """
    for start in range(0, len(rows), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        for other in range(start, len(rows), BLOCK_ROWS):
            near = block @ vectors[other : other + BLOCK_ROWS].T >= similarity - ROUNDING
            left, right = np.nonzero(near)
            if len(left):
                roots = joined(roots, rows[start + left], rows[other + right])
    return roots
