"""What a server answers, over the models that ship with tagline, in this process."""

import asyncio
import json

import pytest
from fastapi.testclient import TestClient

from jobs.serve import url_reader
from jobs.serving.worker import Worker
from operators.catalog import build_operators
from operators.embedded.scenes import describe, describe_in_chinese, draw_scenes
from operators.embedder import Embedder
from schemas.config import ServedConfig, parse_as
from schemas.errors import ConfigError, RowFault
from tests import serving
from tests.fetching import picture
from tests.serving import data_url, encoded
from tests.web import Server, answering

CHAIN = {
    "caption": {"use": "captioner", "model": "embedded:captioner"},
    "entailment": {"use": "entailment", "model": "embedded:entailment", "hypothesis": "caption"},
    "embedding": {"use": "embedder", "model": "embedded:embedder"},
    "match": {"use": "matcher", "model": "embedded:matcher", "text": "caption"},
}
SCENES = list(draw_scenes(4, 11))


def config(**more):
    return parse_as(ServedConfig, {"operators": CHAIN, **more})


@pytest.fixture(scope="module")
def client() -> TestClient:
    return serving.client(config())


def post(client, route, image=None, **fields):
    files = {} if image is None else {"image": ("scene.png", image)}
    return client.post(f"/v1/{route}", files=files or None, data=fields)


def error(answer):
    """The code of an error, after checking that it is one in our shape."""
    document = answer.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message"}
    assert document["error"]["message"]
    return answer.status_code, document["error"]["code"]


def test_a_picture_is_described_with_alternatives(client):
    answer = post(client, "caption", encoded(SCENES[0])).json()
    assert answer["text"] == describe(SCENES[0])
    assert answer["image"] == "scene.png"
    texts = [one["text"] for one in answer["alternatives"]]
    assert answer["text"] in texts
    assert len(texts) == 5


def test_json_with_a_data_url_is_answered_as_an_upload_is(client):
    image = encoded(SCENES[1])
    told = client.post("/v1/caption", json={"image": data_url(image)}).json()
    assert told == {**post(client, "caption", image).json(), "image": "data:"}


def test_every_claim_is_judged_in_the_order_given(client):
    claims = [describe(SCENES[0]), "there is nothing at all"]
    answers = post(client, "entailment", encoded(SCENES[0]), text=claims).json()["answers"]
    assert [one["text"] for one in answers] == claims
    assert answers[0]["label"] == "yes"
    for one in answers:
        assert one["yes"] + one["no"] + one["maybe"] == pytest.approx(1, abs=1e-5)


def test_without_a_claim_the_caption_is_judged_as_in_a_job(client):
    (answer,) = post(client, "entailment", encoded(SCENES[0])).json()["answers"]
    assert answer["text"] == describe(SCENES[0])
    (match,) = post(client, "match", encoded(SCENES[0])).json()["answers"]
    assert match["text"] == describe(SCENES[0])
    assert match["score"] > 0.5
    assert "is_cut" not in match


def test_a_text_whose_end_the_matcher_does_not_read_is_told(client):
    (match,) = post(client, "match", encoded(SCENES[0]), text="dog " * 60).json()["answers"]
    assert match["is_cut"] is True


def test_images_and_texts_are_embedded_in_one_space(client):
    texts = ["a red apple", "红苹果"]
    answers = post(client, "embed", encoded(SCENES[0]), text=texts).json()["answers"]
    assert [one.get("text") for one in answers] == [None, *texts]
    expected = Embedder("embedded:embedder").embed_texts(texts)
    assert answers[1]["embedding"] == pytest.approx(expected[0], abs=1e-5)
    assert answers[2]["embedding"] == pytest.approx(expected[1], abs=1e-5)
    only_text = client.post("/v1/embed", json={"text": "a red apple"}).json()["answers"]
    assert only_text[0]["embedding"] == pytest.approx(expected[0], abs=1e-5)


def test_any_operator_is_asked_by_its_name(client):
    answer = post(client, "operators/entailment", encoded(SCENES[0])).json()
    assert set(answer) == {
        "image",
        "entailment",
        "entailment_yes",
        "entailment_no",
        "entailment_maybe",
    }
    assert error(post(client, "operators/captoin", encoded(SCENES[0]))) == (404, "no_operator")


def test_serve_and_a_job_answer_alike(client):
    images = [encoded(scene) for scene in SCENES]
    table = serving.as_job(config(), images)
    for row, image in zip(table, images, strict=True):
        for name in CHAIN:
            answer = post(client, f"operators/{name}", image).json()
            for column, value in answer.items():
                if column != "image":
                    assert serving.near(value, row[column], 1e-5), column


def test_a_bad_picture_in_a_batch_harms_no_neighbour():
    (operator, *_) = build_operators(config(), [])
    good = [encoded(scene) for scene in SCENES[:2]]
    damaged = good[0][: len(good[0]) // 2]
    worker = Worker(operator, operator.writes)
    rows = [{"image_encoded": image} for image in (good[0], damaged, good[1])]
    first, bad, last = worker.answer(rows)
    assert (first.batch_rows, bad.batch_rows) == (3, 0)
    assert first.row["caption"] == describe(SCENES[0])
    assert last.row["caption"] == describe(SCENES[1])
    assert bad.row["error"]["code"] == "truncated"


def test_a_route_without_its_operator_says_what_there_is(client):
    answer = post(client, "tags", encoded(SCENES[0]))
    assert error(answer) == (404, "no_operator")
    assert "caption (captioner)" in answer.json()["error"]["message"]


def test_fixed_hypotheses_are_judged_and_others_refused():
    entry = {"use": "entailment", "model": "embedded:entailment", "hypotheses": ["there is a dog"]}
    fixed = serving.client(parse_as(ServedConfig, {"operators": {"claims": entry}}))
    (answer,) = post(fixed, "entailment", encoded(SCENES[0])).json()["answers"]
    assert answer["text"] == "there is a dog"
    refused = post(fixed, "entailment", encoded(SCENES[0]), text="there is a cat")
    assert error(refused) == (422, "unexpected_text")


def test_a_column_that_no_operator_writes_is_asked_of_the_client():
    entry = {"use": "matcher", "model": "embedded:matcher", "text": "title"}
    alone = serving.client(parse_as(ServedConfig, {"operators": {"match": entry}}))
    assert error(post(alone, "match", encoded(SCENES[0]))) == (422, "no_text")
    (answer,) = post(alone, "match", encoded(SCENES[0]), text="a dog").json()["answers"]
    assert answer["text"] == "a dog"


def test_an_image_is_needed(client):
    assert error(client.post("/v1/caption", json={})) == (422, "no_image")
    assert error(client.post("/v1/embed", json={})) == (422, "no_image")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty_text"),
        (" \n", "empty_text"),
        ("word " * 10_000, "text_too_long"),
        ("\ud800", "bad_text"),
        (["a"] * 65, "too_many"),
    ],
)
def test_texts_that_cannot_be_judged_are_refused(client, text, code):
    body = json.dumps({"image": data_url(encoded(SCENES[0])), "text": text})
    answer = client.post(
        "/v1/entailment", content=body, headers={"content-type": "application/json"}
    )
    assert error(answer) == (422, code)


@pytest.mark.parametrize(
    "question", [{"\ud83d": "x"}, {"image": "data:\ud83d,\ud83d"}, {"image": "http://\ud83d/a.png"}]
)
def test_half_a_character_anywhere_is_refused_and_not_answered_with_itself(client, question):
    body = json.dumps(question)
    answer = client.post("/v1/caption", content=body, headers={"content-type": "application/json"})
    assert error(answer)[0] in (403, 422)


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"hello, I am a text", 415, "not_an_image"),
        (b"\x00\x00\x00\x20ftypavif", 415, "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 422, "truncated"),
        (picture(1)[:300], 422, "truncated"),
        (serving.BOMB, 422, "bomb"),
    ],
)
def test_files_that_are_no_image_are_refused(client, image, status, code):
    assert error(post(client, "caption", image)) == (status, code)


def test_a_file_larger_than_allowed_is_refused():
    small = serving.client(config(limits={"image_bytes": 1000}), serving.Stuck())
    assert error(post(small, "caption", picture(1, (40, 40)))) == (413, "too_large")
    told = small.post("/v1/caption", json={"image": data_url(picture(1, (40, 40)))})
    assert error(told) == (413, "too_large")


def test_more_pixels_than_allowed_are_refused_before_an_operator_is_asked():
    stuck = serving.Stuck()
    small = serving.client(config(limits={"image_pixels": 100}), stuck)
    assert error(post(small, "caption", picture(1, (11, 10)))) == (422, "bomb")
    assert stuck.asked == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:8000/healthz",
        "http://example.com/cat.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://bucket/key",
        "ftp://example.com/cat.png",
    ],
)
def test_no_url_is_fetched_unless_its_host_is_allowed(client, url):
    assert error(client.post("/v1/caption", json={"image": url})) == (403, "policy")


def test_an_allowed_host_at_a_private_address_is_not_asked():
    inside = serving.client(config(allow={"hosts": ["localhost", "169.254.169.254"]}))
    for url in ("http://localhost:8000/cat.png", "http://169.254.169.254/cat.png"):
        assert error(inside.post("/v1/caption", json={"image": url})) == (403, "policy")


def test_an_image_on_an_allowed_host_is_fetched_within_the_limits():
    allowed = config(allow={"hosts": ["localhost"]}, limits={"image_bytes": 1000})
    fetch = url_reader(allowed, exempt=["127.0.0.0/8", "::1/128"])
    server = Server()
    server.pages = {"/a.png": answering(body=picture(1, (8, 8))), "/b": answering(body=b"x" * 1001)}
    try:
        place = f"http://localhost:{server.port}"
        assert asyncio.run(fetch(f"{place}/a.png")) == picture(1, (8, 8))
        with pytest.raises(RowFault, match="too_large"):
            asyncio.run(fetch(f"{place}/b"))
    finally:
        server.close()


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{", "application/json", 422, "bad_json"),
        (b"[" * 100_000, "application/json", 422, "bad_json"),
        (b"[]", "application/json", 422, "bad_json"),
        (b'{"imgae": "x"}', "application/json", 422, "bad_question"),
        (b'{"image": 3}', "application/json", 422, "bad_question"),
        (b'{"image": "data:image/png;base64,?"}', "application/json", 422, "bad_data_url"),
        (b'{"image": "data:image/png"}', "application/json", 422, "bad_data_url"),
        (b"image=1", "application/x-www-form-urlencoded", 415, "content_type"),
        (b"--b\r\n", "multipart/form-data; boundary=b", 422, "bad_form"),
    ],
)
def test_bodies_that_are_no_question_are_refused(client, content, kind, status, code):
    answer = client.post("/v1/caption", content=content, headers={"content-type": kind})
    assert error(answer) == (status, code)


def test_an_unknown_key_is_told_with_the_nearest(client):
    message = client.post("/v1/caption", json={"imgae": ""}).json()["error"]["message"]
    assert "did you mean 'image'?" in message


def test_an_answer_that_takes_too_long_is_given_up():
    stuck = serving.client(config(serve={"timeout": "0.05s"}), serving.Stuck())
    assert error(post(stuck, "caption", picture(1))) == (504, "timeout")


def test_a_fault_of_the_program_is_told_without_its_insides():
    answer = post(serving.client(config(), object()), "caption", picture(1))
    assert error(answer) == (500, "internal")


def test_unknown_routes_and_methods_are_answered_in_json(client):
    assert error(client.get("/v2/caption")) == (404, "no_route")
    assert error(client.get("/v1/caption")) == (405, "method")


def test_a_search_without_an_index_says_so(client):
    assert error(client.post("/v1/search", json={"text": "a dog"})) == (404, "no_index")


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> TestClient:
    """A server whose index holds all scenes."""
    folder = tmp_path_factory.mktemp("searched")
    index = serving.indexed(folder, config(), [encoded(scene) for scene in SCENES])
    return serving.client(config(serve={"index": index}))


def test_what_a_text_or_an_image_is_nearest_to_is_found(searched):
    for at, scene in enumerate(SCENES):
        for asked in (describe(scene), describe_in_chinese(scene)):
            answers = searched.post("/v1/search", json={"text": asked, "limit": 2}).json()[
                "answers"
            ]
            assert answers[0]["image_id"] == f"{at}.png"
            assert answers[0]["caption"] == describe(scene)
            assert len(answers) == 2
        alike = post(searched, "search", encoded(scene)).json()["answers"]
        assert alike[0]["image_id"] == f"{at}.png"
        assert alike[0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_search_gives_pictures_when_asked(searched):
    asked = {"text": "a dog", "pictures": True}
    for answer in searched.post("/v1/search", json=asked).json()["answers"]:
        assert answer["picture"].startswith("data:image/jpeg;base64,")
    without = searched.post("/v1/search", json={"text": "a dog"}).json()["answers"]
    assert "picture" not in without[0]


@pytest.mark.parametrize(
    "asked", [{}, {"text": "a", "limit": 0}, {"text": "a", "limit": 101}, {"text": ["a", "b"]}]
)
def test_a_search_for_nothing_or_too_much_is_refused(searched, asked):
    assert error(searched.post("/v1/search", json=asked)) == (422, "bad_question")


def test_an_index_of_another_embedder_is_refused_before_anything_starts(tmp_path):
    index = serving.indexed(tmp_path, config(), [encoded(SCENES[0])])
    rounded = {**CHAIN["embedding"], "rounding": "fp16"}
    operators = {"caption": CHAIN["caption"], "embedding": {**rounded, "precision": "bfloat16"}}
    other = parse_as(ServedConfig, {"operators": operators, "serve": {"index": index}})
    with pytest.raises(ConfigError, match="use the embedder of the table"):
        serving.served(other, serving.Stuck())


def test_tags_are_given_where_the_config_has_a_tagger():
    tags = {
        "use": "tagger",
        "model": "embedded:entailment",
        "embedder": "embedded:embedder",
        "taxonomy": "infra/examples/taxonomies/scenes.yaml",
    }
    operators = {"embedding": CHAIN["embedding"], "labels": tags}
    tagging = parse_as(ServedConfig, {"operators": operators})
    answer = post(serving.client(tagging), "tags", encoded(SCENES[0])).json()
    (row,) = serving.as_job(tagging, [encoded(SCENES[0])])
    assert set(answer) == {"image", "tags"}
    assert answer["tags"]
    assert serving.near(answer["tags"], row["labels"], 1e-5)


def test_the_operators_are_named(client):
    told = client.get("/v1/operators").json()
    assert told["index"] is None
    assert told["operators"]["match"] == {"use": "matcher", "reads_text": True}


def test_requests_are_counted_by_route_and_status(client):
    post(client, "caption", b"no image")
    text = client.get("/metrics").text
    assert 'tagline_requests_total{route="/v1/caption",status="415"}' in text
    assert 'tagline_request_seconds_bucket{le="0.5",route="/v1/caption"}' in text


def test_every_route_is_described_with_an_example(client):
    paths = client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        if "post" in methods:
            (example,) = [
                kind["example"]
                for kind in methods["post"]["requestBody"]["content"].values()
                if "example" in kind
            ]
            answered = client.post(path.replace("{name}", "caption"), json=example)
            assert answered.status_code == 200 or error(answered)[0] == 404, path
            assert methods["post"]["responses"]["503"]
    assert client.get("/docs").status_code == 404  # FastAPI's page loads scripts from elsewhere


def test_the_page_asks_nothing_of_other_hosts(client):
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "://" not in answer.text
