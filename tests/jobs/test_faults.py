"""Every fault of `tests.chaos.catalog` at one random point; `make chaos` takes more of each.

Faults are injected one after the other into the same table, which has a row more per image each
time. The seed stands in the test's name and in what a failure prints:

    TAGLINE_CHAOS_SEED=12345 python -m pytest tests/jobs/test_faults.py
"""

import os
import random
from collections.abc import Iterator

import pytest

from tests.chaos import cluster, table_store
from tests.chaos.catalog import FAULTS
from tests.chaos.fault import Fault, NotHereError, inject
from tests.chaos.life import Life

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
SEED = int(os.environ.get("TAGLINE_CHAOS_SEED") or random.SystemRandom().randint(0, 10**6))
ROWS = 24
SHORT = [fault for fault in FAULTS if fault.is_short]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A table on a small disk where one can be mounted, and a cluster that all faults share."""
    life = Life(tmp_path_factory.mktemp("life"), rows=ROWS)
    try:
        table_store.on_small_disk(life)
    except NotHereError as reason:
        print(f"no small disk: {reason}")
    try:
        with cluster.running([4]) as nodes:
            life.address = nodes.address
            life.environment = dict(cluster.ENVIRONMENT)
            life.grow()
            life.run(code=0)
            yield life
    finally:
        table_store.leave(life)


@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.name)
def test_one_row_per_image_whatever_happens(life: Life, fault: Fault) -> None:
    if fault.needs_disk and not table_store.is_on_small_disk(life):
        pytest.skip("nothing can be mounted here")
    try:
        result = inject(fault, life, SEED)
    except NotHereError as reason:
        pytest.skip(str(reason))
    print(result)
    assert result.is_right, f"{result}\n{result.law}"
    assert result.silence < 120, f"{result.silence:.0f} s without a line"
