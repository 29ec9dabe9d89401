"""Whatever is killed whenever: one row per image at the end, and never half a run before."""

import signal

import pytest

from tests import chaos
from tests.chaos import Kill

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
SECONDS = 500  # for one driver on a busy machine


def test_a_job_killed_again_and_again_ends_with_one_row_per_image(tmp_path, monkeypatch):
    config, log = chaos.write_config(tmp_path / "job.json"), tmp_path / "log"
    with chaos.gated_server(monkeypatch) as gate, chaos.Reader() as reader:

        def killed(kill: Kill) -> None:
            driver = chaos.started(config, log)
            gate.arm(kill, driver.pid)
            assert driver.wait(SECONDS) == -signal.SIGKILL, log.read_text()

        chaos.write_pictures(range(3200))
        chaos.write_manifest(range(3000))
        killed(Kill("before", "part", 1))
        killed(Kill("after", "part", 4))
        chaos.write_manifest(range(3100))  # the manifest grows between two kills
        killed(Kill("before", "commit"))
        assert not reader.seen
        killed(Kill("after", "commit"))
        assert chaos.table_now() == chaos.table_of(range(3100))
        chaos.write_manifest(range(3200))
        gate.arm(None, 0)
        both = [chaos.started(config, log) for _ in range(2)]
        assert [driver.wait(SECONDS) for driver in both] == [0, 0], log.read_text()

        assert chaos.table_now() == chaos.table_of(range(3200))
    assert reader.seen <= {(0, 3100, 3100), (1, 3200, 3200)}
