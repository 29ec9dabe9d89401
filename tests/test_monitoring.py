"""The dashboard and the alerts show figures that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml

from jobs.serving.figures import Figures

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "infra/monitoring"
NAME = re.compile(r"\b(?:ray|tagline)_\w+|\bup\b")


def expressions() -> list[str]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return shown + [rule["expr"] for group in groups for rule in group["rules"]]


def counted() -> set[str]:
    """The names that a run counts by, as Ray exports them."""
    text = (ROOT / "jobs/run_metrics.py").read_text()
    counters = {f"tagline_{name}_total" for name in re.findall(r'_counter\("(\w+)"', text)}
    gauges = set(re.findall(r'Gauge\("(\w+)"', text))
    assert counters
    assert gauges
    return {f"ray_{name}" for name in counters | gauges}


def served() -> set[str]:
    """The names that a server's /metrics has once it was asked."""
    figures = Figures()
    figures.requests.labels("/v1/caption", "200").inc()
    figures.seconds.labels("/v1/caption").observe(1)
    figures.batch_rows.labels("caption").observe(1)
    figures.waiting_rows.labels("caption").set(1)
    return set(re.findall(r"^(tagline_\w+)", figures.text().decode(), re.MULTILINE))


def of_ray() -> set[str]:
    """The names that Ray's own dashboards show."""
    folder = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    return set(re.findall(r"\bray_\w+", text))


def test_every_figure_shown_is_one_that_is_counted():
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    known = {"up"} | counted() | served() | of_ray()
    assert shown - known == set()
    assert counted() <= shown


def test_no_two_panels_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(x < 24 for x, _ in taken)


def test_every_alert_says_what_is_wrong():
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert rule["annotations"]["summary"], rule["alert"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not on this machine")
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "infra/monitoring/alerts.yaml"],
        ["check", "config", "--syntax-only", "infra/monitoring/prometheus.yaml"],
        ["test", "rules", "tests/data/alerts.yaml"],
    ],
    ids=" ".join,
)
def test_prometheus_reads_it_and_alerts_when_it_should(command):
    done = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
