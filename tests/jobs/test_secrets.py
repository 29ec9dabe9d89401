"""A secret that is put everywhere where one may stand, and looked for everywhere where none may."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.table import open_table
from tests import s3
from tests.chat_server import ChatServer, Fault, served
from tests.fetching import picture

PROJECT = Path(__file__).parents[2]
CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canaryAwsSecret",
    "AWS_SESSION_TOKEN": "canaryAwsSession",
    "CHAT_KEY": "canaryChatKey",
    "TAGLINE_TOKENS": "canaryServeToken",
}
PASSWORD, SIGNATURE = "canaryPassword", "canarySignature"
IN_URIS = [PASSWORD, SIGNATURE]  # which the user gave with the manifest
ALL = [*CANARIES.values(), *IN_URIS]


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with served() as server:
        yield server


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets need a path of less than 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def write_job(folder: Path, bucket: str, chat: ChatServer) -> Path:
    client = s3.client(os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key="good.png", Body=picture(0))
    signed = f"?X-Amz-Signature={SIGNATURE}"
    uris = [
        f"{bucket}/good.png",
        f"{bucket}/nowhere.png",
        "s3://no-such-bucket-here/x.png",
        f"https://user:{PASSWORD}@pictures.test/a.png",
        f"https://elsewhere.test/a.png{signed}",
        f"http://127.0.0.1:9/a.png{signed}",
        f"http://127.0.0.1:22/a.png{signed}",
        f"ftp://user:{PASSWORD}@pictures.test/a.png",
    ]
    rows = [{"image_id": str(number), "uri": uri} for number, uri in enumerate(uris)]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "job.yaml"
    document: dict[str, Any] = {
        "manifest": str(folder / "m.jsonl"),
        "table": str(folder / "table"),
        "operators": {
            "answer": {
                "use": "chat",
                "model": "m",
                "url": chat.url,
                "prompt": "echo",
                "key_from": "CHAT_KEY",
                "attempts": 1,
            }
        },
        "limits": {"error_fraction": 1.0},
        "allow": {"hosts": ["127.0.0.1", "pictures.test"]},
    }
    config.write_text(json.dumps(document))
    return config


def found_in(folder: Path, canaries: list[str]) -> list[str]:
    """Files that hold a canary."""
    return [
        f"{path.relative_to(folder)}: {canary}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
        for canary in canaries
        if canary.encode() in path.read_bytes()
    ]


def watched(process: subprocess.Popen[str], folder: Path, logs: dict[str, list[str]]) -> str:
    """Waits for a command and reads meanwhile what Ray logs, which goes when Ray does."""
    while True:
        try:
            return process.communicate(timeout=0.3)[0]
        except subprocess.TimeoutExpired:
            for place, _, names in os.walk(folder):  # which passes over what goes meanwhile
                for path in [Path(place) / name for name in names if "." in name]:
                    with suppress(OSError):
                        if path.is_file():
                            data = path.read_bytes()
                            logs[str(path)] = [c for c in ALL if c.encode() in data]


@pytest.mark.slow
def test_no_secret_is_written_anywhere(tmp_path, short_folder, s3_bucket, chat):
    chat.faults["echo"] = Fault("status", times=99, status=401, text="bad AUTHORIZATION")
    config = write_job(tmp_path, s3_bucket, chat)
    report = tmp_path / "report.html"
    given = {**os.environ, **CANARIES, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(short_folder)}
    in_uris = [f"https://u:{PASSWORD}@x.test/a.png", f"http://127.0.0.1/a?Signature={SIGNATURE}"]
    said, ends = "", []
    logs: dict[str, list[str]] = {}
    for command in (
        ["plan", config],
        ["enrich", config],
        ["enrich", config, "table=s3://no-such-bucket-here/table"],
        ["report", tmp_path / "table", "--out", report],
        ["apply", "embedder", "--model", "embedded:embedder", *in_uris],
        ["serve", config, "--port", "x"],
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *map(str, command)],
            cwd=PROJECT,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said += watched(process, short_folder, logs)
        ends.append(process.returncode)
    assert ends == [0, 0, 2, 0, 1, 2], said
    assert any(path.endswith("raylet.out") for path in logs), "Ray's logs lie elsewhere"
    assert [path for path, canaries in logs.items() if canaries] == []
    for uri in in_uris:
        said = said.replace(uri, "")  # `apply` gives back what was typed
    (short_folder / "said").write_text(said)
    table = open_table(str(tmp_path / "table"))
    assert table is not None, said
    errors = [error and error["message"] for error in table.read(["error"])["error"].to_pylist()]
    (tmp_path / "errors").write_text(json.dumps(errors))
    assert len(errors) == 8
    assert None not in errors, errors

    assert found_in(tmp_path, list(CANARIES.values())) == []
    assert found_in(short_folder, ALL) == []
    assert found_in(tmp_path, IN_URIS) != []  # the manifest, which shows that the search finds
    outside = [name for name in found_in(tmp_path, IN_URIS) if not name.startswith(("m.jsonl",))]
    assert [name for name in outside if not name.startswith("table/")] == []
