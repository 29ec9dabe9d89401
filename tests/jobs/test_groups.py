"""Connected components: joined by blocks, they are those of all pairs."""

import numpy as np
import pytest

from jobs import groups
from jobs.groups import equal_rows, joined, near_rows
from tests.enriched_tables import unit_vectors


def components(count, pairs):
    """The smallest row of each row's component, one pair after the other."""
    roots = list(range(count))
    for left, right in pairs:
        low, high = sorted((roots[left], roots[right]))
        roots = [low if root == high else root for root in roots]
    return roots


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_joined_into_their_components(seed):
    pairs = np.random.default_rng(seed).integers(0, 60, (40, 2))
    found = joined(np.arange(60), pairs[:, 0], pairs[:, 1])
    assert found.tolist() == components(60, pairs)


def test_a_chain_in_any_order_is_one_component():
    order = np.random.default_rng(0).permutation(500)
    assert not joined(np.arange(500), order[:-1], order[1:]).any()


def test_equal_values_have_the_first_row_as_root_and_negative_ones_stand_alone():
    assert equal_rows(np.array([5, -1, 3, 5, -1, 3])).tolist() == [0, 1, 2, 0, 4, 2]


def test_blocks_find_what_all_pairs_find(monkeypatch):
    monkeypatch.setattr(groups, "BLOCK_ROWS", 7)
    vectors = unit_vectors(50, dimension=3)
    near = np.argwhere(vectors @ vectors.T >= 0.95)
    found = near_rows(np.arange(50), np.arange(50), vectors, 0.95)
    assert found.tolist() == components(50, near)
    assert 1 < len(set(found.tolist())) < 50


def test_a_cosine_of_one_survives_rounding():
    vectors = np.repeat(unit_vectors(1, dimension=768), 2, axis=0)
    assert near_rows(np.arange(2), np.arange(2), vectors, 1.0).tolist() == [0, 0]
