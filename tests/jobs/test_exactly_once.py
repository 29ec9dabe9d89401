"""Whatever is killed whenever: one row per image at the end, and never half a run before."""

import pytest

from tests.chaos import gate as chaos
from tests.chaos.gate import Kill
from tests.chaos.reader import Reader

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


def test_a_job_killed_again_and_again_ends_with_one_row_per_image(tmp_path, monkeypatch):
    config = chaos.write_config(tmp_path / "job.json")
    with (
        chaos.gated_server(monkeypatch) as gate,
        Reader(chaos.TABLE) as reader,
        chaos.Drivers(config, gate) as drivers,
    ):
        chaos.write_pictures(range(3200))
        chaos.write_manifest(range(3000))
        drivers.killed(Kill("before", "part", 1))
        drivers.killed(Kill("after", "part", 4))
        chaos.write_manifest(range(3100))  # the manifest grows between two kills
        drivers.killed(Kill("before", "commit"))
        assert not reader.seen
        drivers.killed(Kill("after", "commit"))
        assert chaos.table_now() == chaos.table_of(range(3100))
        chaos.write_manifest(range(3200))
        drivers.done(count=2)

        assert chaos.table_now() == chaos.table_of(range(3200))
    assert reader.seen <= {(0, 3100, 3100), (1, 3200, 3200)}
