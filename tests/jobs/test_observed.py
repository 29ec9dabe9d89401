"""What a real run tells while it goes on: the logs of its processes, figures, lineage, its note."""

import json
import logging
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs import enrich, event_log, history, lineage
from jobs.cluster import connected
from jobs.lineage import Dataset, Lineage
from jobs.observed import observed
from schemas.errors import RunError
from tests import plain_jobs as job

METRICS_MS = "500"  # between two reports of a process; Ray's own default is 10 seconds


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_metrics_report_interval_ms", METRICS_MS)
        with connected():
            yield


@pytest.fixture(autouse=True)
def _no_lineage(monkeypatch) -> Iterator[None]:
    """No settings for OpenLineage; its client makes further ones out of OPENLINEAGE_URL."""
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    yield
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        del os.environ[name]


class Server:
    """Takes OpenLineage events over HTTP, or takes connections and never answers."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.events: list[dict] = []
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if hangs:
                    outer.released.wait()
                outer.events.append(json.loads(data))
                self.send_response(201)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("OPENLINEAGE_URL", server.url)
    yield server
    server.stop()


def run(config):
    return enrich.run(config, catalog=job.CATALOG)


def metrics() -> dict[str, float]:
    """The node's own figures of ours: `name{label="value",…}` to value, without Ray's labels."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("ray_tagline_"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("} ")
            ours = [one for one in labels.split(",") if one.split("=")[0] in LABELS]
            key = name + (f"{{{','.join(sorted(ours))}}}" if ours else "")
            found[key] = found.get(key, 0.0) + float(value)
    return found


LABELS = ("stage", "outcome", "operator", "code")


@pytest.mark.usefixtures("_ray")
def test_prometheus_finds_what_a_run_did_at_the_nodes_port(tmp_path):
    config = job.config(tmp_path, 40, limits={"error_fraction": 0.5})
    sizes = {n: (tmp_path / "photos" / f"{n}.png").stat().st_size for n in range(40)}
    for number in (4, 7):
        (tmp_path / "photos" / f"{number}.png").unlink()
        del sizes[number]

    run(config)

    meant = {
        'ray_tagline_rows_total{outcome="ok",stage="fetch"}': 38,
        'ray_tagline_rows_total{outcome="failed",stage="fetch"}': 2,
        'ray_tagline_rows_total{outcome="ok",stage="scaled"}': 38,
        'ray_tagline_operator_rows_total{operator="brightness"}': 38,
        'ray_tagline_errors_total{code="missing"}': 2,
        "ray_tagline_bytes_total": sum(sizes.values()),
        "ray_tagline_shards_pending": 0,
    }
    until = time.monotonic() + 30
    found: dict[str, float] = {}
    while time.monotonic() < until:
        found.update(metrics())
        if all(found.get(name) == value for name, value in meant.items()):
            break
    assert {name: found.get(name) for name in meant} == meant
    assert found["ray_tagline_shards_done_total"] > 0
    assert found['ray_tagline_operator_seconds_total{operator="scaled"}'] > 0


@pytest.mark.usefixtures("_ray")
def test_one_id_is_in_the_logs_of_all_processes_and_in_the_commit(tmp_path, capfd, monkeypatch):
    import ray

    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers])
    event_log.set_up()
    run(job.config(tmp_path, 20))

    (version,) = history.run(str(tmp_path / "table"))
    lines = [line for line in capfd.readouterr().err.splitlines() if "event=" in line]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    ours = [
        line
        for path in logs.glob("worker-*.err")
        for line in path.read_text().splitlines()
        if f"run={version.note.run}" in line
    ]

    assert {"run_started", "planned", "committed", "run_done"} <= {
        line.partition("event=")[2].split()[0] for line in lines
    }
    assert all(f"run={version.note.run} " in line for line in lines)
    assert {line.partition("stage=")[2].split()[0] for line in ours} == {"brightness", "scaled"}
    assert version.note.verb == "enrich"
    assert version.note.computed == {"brightness": 20, "scaled": 20}
    assert version.note.limiting_stage in {"fetch", "brightness", "scaled"}
    assert version.note.seconds > 0


@pytest.mark.usefixtures("_ray")
def test_a_lineage_server_learns_of_manifest_and_table(tmp_path, server):
    config = job.config(tmp_path, 20)
    run(config)
    (note,) = [one.note for one in history.run(config.table)]

    start, complete = server.events
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"] == note.run
    (read,), (written,) = complete["inputs"], complete["outputs"]
    assert (read["namespace"], read["name"]) == ("file", config.manifest.path)
    assert {"image_id", "uri", "number"} <= {c["name"] for c in read["facets"]["schema"]["fields"]}
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 20
    assert (written["namespace"], written["name"]) == ("file", config.table)
    assert {"brightness", "error"} <= {c["name"] for c in written["facets"]["schema"]["fields"]}
    assert written["facets"]["version"]["datasetVersion"] == "0"
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 20


@pytest.mark.usefixtures("_ray")
def test_a_lineage_server_learns_why_a_run_failed(tmp_path, server, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", str(tmp_path))
    config = job.config(tmp_path, 10)
    (tmp_path / "photos" / "4.png").unlink()

    with pytest.raises(RunError, match="1 of 10"):
        run(config)

    assert [event["eventType"] for event in server.events] == ["START", "FAIL"]
    message = server.events[1]["run"]["facets"]["errorMessage"]["message"]
    assert message.startswith("RunError: 1 of 10 rows tried")
    assert "outputStatistics" not in server.events[1]["outputs"][0].get("outputFacets", {})


def test_a_run_that_is_asked_to_end_tells_its_log_and_lineage_and_what_is_kept(
    tmp_path, server, caplog
):
    before = signal.getsignal(signal.SIGTERM)
    kept = "tagline: ended by SIGTERM; parts already written are kept, and the same command goes on"
    with (
        pytest.raises(SystemExit, match=kept),
        observed(job.config(tmp_path, 1), "enrich"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)

    assert [event["eventType"] for event in server.events] == ["START", "FAIL"]
    assert caplog.text.count("event=run_failed") == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_interrupted_inside_a_library_says_what_is_kept(tmp_path):
    def read_a_stream() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("reading the stream failed") from None  # as DuckDB does

    kept = "ended by Ctrl-C; parts already written are kept"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(SystemExit, match=kept), observed(job.config(tmp_path, 1), "enrich"):
            read_a_stream()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_lineage_server_that_hangs_costs_a_run_a_bounded_time(monkeypatch, caplog):
    server = Server(hangs=True)
    monkeypatch.setenv("OPENLINEAGE_URL", server.url)
    monkeypatch.setattr(lineage, "PATIENCE_SECONDS", 0.5)
    told = Lineage("00000000-0000-4000-8000-000000000001", "job", [Dataset("m")], [Dataset("t")])
    begun = time.monotonic()

    told.start()
    told.complete()

    assert time.monotonic() - begun < 5
    assert "event=lineage_not_sent reason=the server does not answer" in caplog.text
    server.stop()


def test_a_lineage_server_that_is_not_there_is_a_warning(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    with pytest.raises(ZeroDivisionError), observed(job.config(tmp_path, 1), "enrich"):
        raise ZeroDivisionError
    assert "event=lineage_not_sent" in caplog.text


def test_no_lineage_is_sent_unless_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not lineage.is_wanted()
    (tmp_path / "openlineage.yml").write_text("transport: {type: console}")
    assert lineage.is_wanted()
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert not lineage.is_wanted()


@pytest.mark.parametrize(
    ("path", "known_as"),
    [
        ("s3://photos/a/manifest/", ("s3://photos", "a/manifest")),
        ("/data/table", ("file", "/data/table")),
    ],
)
def test_data_sets_are_named_as_openlineage_names_them(path, known_as):
    assert lineage.place(path) == known_as
