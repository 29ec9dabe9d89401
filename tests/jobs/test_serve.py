"""`tagline serve` as a process of its own: starts, answers, refuses, drains and ends."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from jobs.serve import listening
from operators.catalog import read_served_config
from operators.embedded.scenes import describe, draw_scenes
from schemas.errors import ConfigError
from tests import serving
from tests.command import Command

CONFIG = Path(__file__).parents[2] / "infra/examples/serve.yaml"


@pytest.fixture
def tagline(monkeypatch, capfd):
    monkeypatch.delenv("TAGLINE_TOKENS", raising=False)
    return Command(monkeypatch, capfd)


def test_faults_of_a_config_are_told_together(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(
        "operators: {caption: {use: captioner}}\n"
        "serve: {prot: 80, timeout: 30, max_queued_requests: 0, token: x}\n"
    )
    with pytest.raises(ConfigError) as told:
        read_served_config(path)
    assert "unknown key 'prot' in serve; did you mean 'port'?" in str(told.value)
    assert "unknown key 'token' in serve" in str(told.value)
    assert "serve.timeout is 30: give a number with its unit" in str(told.value)
    assert "serve.max_queued_requests is 0" in str(told.value)
    assert "captioner needs 'model'" in str(told.value)


def test_a_jobs_config_can_be_served(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "manifest: s3://photos/manifest/\ntable: table\ncommit: {every: 1h}\n"
        "operators: {caption: {use: captioner, model: 'embedded:captioner'}}\n"
    )
    assert read_served_config(path).serve.port == 8000


def test_an_open_host_needs_a_token(tagline):
    answer = tagline("serve", CONFIG, "--host", "0.0.0.0")
    assert answer.code == 2
    assert "set a token in TAGLINE_TOKENS" in answer.errors


def test_a_taken_port_is_told_before_anything_starts(tagline):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = tagline("serve", CONFIG, "--port", taken.getsockname()[1])
    assert answer.code == 2
    assert "cannot listen on '127.0.0.1'" in answer.errors


def test_an_answer_is_sent_without_waiting_for_its_head_to_be_acknowledged():
    """Or every answer takes 40 ms more; asyncio does so for sockets that name their protocol."""

    async def accepted(bound):
        delays = asyncio.get_running_loop().create_future()

        def connected(_, writer):
            taken = writer.get_extra_info("socket")
            delays.set_result(not taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=bound):
            _, writer = await asyncio.open_connection(*bound.getsockname())
            writer.close()
            return await delays

    with listening("127.0.0.1", 0) as bound:
        assert asyncio.run(accepted(bound)) is False


@pytest.mark.slow
def test_a_server_answers_as_a_job_does_and_drains_when_told_to_end():
    scenes = list(draw_scenes(12, 21))
    images = [serving.encoded(scene) for scene in scenes]
    command = [sys.executable, "-m", "jobs.cli", "serve", str(CONFIG), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            told = json.loads(server.stdout.readline())
            assert list(told["operators"]) == [
                "caption",
                "entailment",
                "embedding",
                "match",
                "tags",
            ]
            with httpx2.Client(base_url=told["address"], timeout=60) as client:
                assert client.get("/healthz").json() == {"status": "ok"}
                _answers_alike(told["address"], images, scenes)
                assert 'tagline_batch_rows_count{operator="caption"}' in client.get("/metrics").text
                _cuts_what_is_too_large(told["address"])
            _drains(server, told["address"], images)
        finally:
            server.kill()


def _answers_alike(address, images, scenes):
    """Asks for everything at once, so that batches form, and compares with a job's rows."""
    config = read_served_config(CONFIG)

    async def ask(client, name, image):
        answer = await client.post(f"/v1/operators/{name}", files={"image": image})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask_all():
        async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
            asked = [ask(client, name, image) for image in images for name in config.operators]
            return await asyncio.gather(*asked)

    answers = iter(asyncio.run(ask_all()))
    for row, scene in zip(serving.as_job(config, images), scenes, strict=True):
        assert row["caption"] == describe(scene)
        for _ in config.operators:
            for column, value in next(answers).items():
                if column != "image":
                    assert serving.near(value, row[column], 1e-5), column


def _cuts_what_is_too_large(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(
            b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = client.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 413")
    assert '"too_large"' in answer


def _drains(server, address, images):
    """Ends the server while questions are being answered: those are, and no more are taken."""
    statuses = []

    def ask(image):
        with httpx2.Client(base_url=address, timeout=60) as client:
            statuses.append(client.post("/v1/caption", files={"image": image}).status_code)

    asking = [threading.Thread(target=ask, args=[image]) for image in images]
    for one in asking:
        one.start()
    with httpx2.Client(base_url=address, timeout=60) as client:
        while f"tagline_questions {len(images)}.0" not in client.get("/metrics").text:
            assert all(one.is_alive() for one in asking) or statuses
            if len(statuses) == len(images):
                break
    server.send_signal(signal.SIGTERM)
    for one in asking:
        one.join()
    assert statuses == [200] * len(images)
    assert server.wait(60) == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(address + "/healthz")
