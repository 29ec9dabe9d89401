import base64
import io
import json
import logging
import pickle
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators import endpoint
from operators.base import apply
from operators.chat import Chat
from operators.images import decode
from schemas.errors import ConfigError, OperatorError
from tests.chat_server import Fault, served

CANARY = "sk-canary-9f3a7c"
SCHEMA = {
    "colour": "string",
    "count": "integer",
    "size": "number",
    "wet": "boolean",
    "parts": "list of strings",
}
FITTING = {"colour": "红", "count": 3, "size": 0.5, "wet": True, "parts": ["stalk", "leaf"]}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)
    with served() as server:
        yield server


def chat(server, **options):
    given = {"url": server.url, "prompt": "{text}", "name": "ask", "image": False, **options}
    return Chat("model-1", **given)


def asked(operator, *texts, images=None):
    columns = {"text": pa.array(texts, pa.string())}
    if images:
        columns["image_encoded"] = pa.array(images, pa.large_binary())
    return apply(operator, pa.table(columns))


def error_of(operator, text="trouble"):
    return asked(operator, text)["error"].to_pylist()[0]


def encoded(form="PNG", mode="RGB", **options):
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, form, **options)
    return file.getvalue()


def test_every_row_gets_the_answer_to_its_own_question_in_order(server):
    server.delay_seconds = 0.01
    texts = [f"row {number}" for number in range(40)]

    table = asked(chat(server, prompt="Look: {text}, {{so}}"), *texts)

    assert table["ask"].to_pylist() == [f"says Look: {text}, {{so}}" for text in texts]
    assert table["ask_prompt_tokens"].to_pylist() == [7] * 40
    assert table["ask_completion_tokens"].to_pylist() == [3] * 40
    assert table.schema.field("ask_prompt_tokens").type == pa.int32()
    assert table["error"].null_count == 40


def test_a_question_is_what_the_protocol_says(server):
    asked(chat(server, max_tokens=9, temperature=0.5), "hello")

    assert server.asked == [
        {
            "model": "model-1",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 9,
            "temperature": 0.5,
        }
    ]
    assert "Authorization" not in server.headers[0]


def test_what_is_left_to_the_endpoint_is_not_sent(server):
    asked(chat(server, max_tokens=None, temperature=None), "hello")

    assert set(server.asked[0]) == {"model", "messages"}


def test_the_picture_goes_along_as_it_is(server):
    picture = encoded("JPEG")

    asked(chat(server, image=True), "look", images=[picture])

    text, image = server.asked[0]["messages"][0]["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert (text["text"], head) == ("look", "data:image/jpeg;base64")
    assert base64.b64decode(data) == picture


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    ],
)
def test_a_picture_that_readers_show_differently_goes_as_the_operators_see_it(
    server, form, mode, options
):
    picture = encoded(form, mode, **options)

    asked(chat(server, image=True), "look", images=[picture])

    url = server.asked[0]["messages"][0]["content"][1]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (sent.mode, sent.tobytes()) == ("RGB", decode(picture).tobytes())


def test_a_schema_is_asked_for_and_its_fields_become_typed_columns(server):
    server.faults["apple"] = Fault("says", text=json.dumps(FITTING))

    table = asked(chat(server, schema=SCHEMA), "apple")

    wanted = server.asked[0]["response_format"]["json_schema"]
    assert wanted["strict"]
    assert wanted["schema"]["required"] == list(SCHEMA)
    assert wanted["schema"]["properties"]["parts"] == {"type": "array", "items": {"type": "string"}}
    assert {name: table[f"ask_{name}"].to_pylist()[0] for name in SCHEMA} == FITTING
    kinds = [table.schema.field(f"ask_{name}").type for name in SCHEMA]
    assert kinds == [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.string())]
    assert "ask" not in table.column_names


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("red", "the answer is not JSON: 'red'"),
        ('{"colour": "red"', "is not JSON"),
        ("[1]", "is not a JSON object"),
        (json.dumps({**FITTING, "age": 1}), "lacks or has beyond the schema 'age'"),
        ('{"colour": "red"}', "beyond the schema 'count', 'parts', 'size', 'wet'"),
        (json.dumps({**FITTING, "count": "3"}), "has in 'count' no integer"),
        (json.dumps({**FITTING, "count": True}), "has in 'count' no integer"),
        (json.dumps({**FITTING, "count": 2.5}), "has in 'count' no integer"),
        (json.dumps({**FITTING, "count": 2**63}), "has in 'count' no integer"),
        (json.dumps({**FITTING, "size": float("nan")}), "is not JSON"),
        (json.dumps({**FITTING, "wet": 1}), "has in 'wet' no boolean"),
        (json.dumps({**FITTING, "colour": None}), "has in 'colour' no string"),
        (json.dumps({**FITTING, "colour": "\ud800"}), "has in 'colour' no string"),
        (json.dumps({**FITTING, "parts": [1]}), "has in 'parts' no list of strings"),
    ],
)
def test_an_answer_that_does_not_fit_the_schema_is_an_error_of_its_row(server, answer, message):
    server.faults["trouble"] = Fault("says", text=answer)

    error = error_of(chat(server, schema=SCHEMA))

    assert (error["code"], error["transient"]) == ("model", False)
    assert message in error["message"]
    assert len(server.asked) == 1


def test_a_whole_number_may_be_spelled_as_a_fraction(server):
    server.faults["apple"] = Fault("says", text='{"count": 3.0}')

    assert asked(chat(server, schema={"count": "integer"}), "apple")["ask_count"].to_pylist() == [3]


def test_an_answer_cut_short_is_kept_as_text_but_fits_no_schema(server, caplog):
    server.faults["long"] = Fault("says", times=2, text="a red", finish="length")

    with caplog.at_level(logging.WARNING):
        assert asked(chat(server), "long")["ask"].to_pylist() == ["a red"]
    assert "event=answers_cut operator=ask rows=1" in caplog.text
    error = error_of(chat(server, schema={"colour": "string"}), "long")
    assert "cut at 256 tokens; allow more max_tokens" in error["message"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("status", status=500), "unavailable"),
        (Fault("status", status=503, headers={"Retry-After": "soon"}), "unavailable"),
        (Fault("status", status=429), "unavailable"),
        (Fault("status", status=504), "timeout"),
        (Fault("hang"), "timeout"),
        (Fault("drip"), "timeout"),
        (Fault("reset"), "unavailable"),
        (Fault("raw", text="<html>busy", headers={"Content-Type": "text/html"}), "unavailable"),
        (Fault("raw", text='{"choices": []}'), "unavailable"),
        (Fault("raw", text='{"choices": [{"mess'), "unavailable"),
        (
            Fault("raw", text="x", headers={"Content-Length": "900", "Connection": "close"}),
            "unavailable",
        ),
    ],
)
def test_what_may_pass_is_asked_again_and_is_transient_in_the_end(server, fault, code):
    server.faults["trouble"] = fault
    patient, hasty = chat(server, timeout=0.3), chat(server, timeout=0.3, attempts=2)

    assert asked(patient, "trouble")["ask"].to_pylist() == ["says trouble"]
    assert server.by_text["trouble"] == 2
    fault.times = 9
    error = error_of(hasty)
    assert (error["code"], error["transient"]) == (code, True)
    assert error["message"].endswith("(tried 2 times)")
    assert server.by_text["trouble"] == 4


def test_an_endpoint_that_is_not_there_is_unavailable(server):
    error = error_of(chat(server, url="http://127.0.0.1:9/v1", attempts=2))

    assert (error["code"], error["transient"]) == ("unavailable", True)
    assert "127.0.0.1:9" in error["message"]


def test_all_threads_wait_as_long_as_the_server_wishes(server):
    server.faults["first"] = Fault("status", status=429, headers={"Retry-After": "1"})
    operator = chat(server, concurrency=1)

    assert asked(operator, "first", "second")["error"].null_count == 2
    assert server.times[1] - server.times[0] >= 1


def test_a_wish_to_wait_for_hours_leaves_the_row_to_a_later_run(server):
    server.faults["trouble"] = Fault("status", status=429, headers={"Retry-After": "7200"})

    error = error_of(chat(server))

    assert (error["code"], error["transient"]) == ("unavailable", True)
    assert len(server.asked) == 1


def test_a_date_to_wait_for_is_understood():
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))

    assert 95 < endpoint._retry_after(later) <= 100
    assert endpoint._retry_after("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    assert endpoint._retry_after("soon") == 0


@pytest.mark.parametrize("status", [301, 400, 404, 413, 422])
def test_what_will_not_pass_is_told_at_once_with_the_servers_words(server, status):
    server.faults["trouble"] = Fault("status", status=status, text="no model of that name")

    error = error_of(chat(server))

    assert (error["code"], error["transient"]) == ("model", False)
    assert f"answered {status}: no model of that name" in error["message"]
    assert len(server.asked) == 1


@pytest.mark.parametrize("finish", ["content_filter", "stop"])
def test_a_refusal_is_an_error_of_its_row(server, finish):
    text = "half an answer" if finish == "content_filter" else None
    server.faults["trouble"] = Fault("says", text=text, finish=finish)

    error = error_of(chat(server))

    assert (error["code"], error["transient"]) == ("model", False)
    assert f"no answer: finish_reason '{finish}'" in error["message"]


def test_answers_that_came_are_not_asked_for_again_when_a_neighbour_fails(server):
    server.faults["trouble"] = Fault("status", status=400)
    texts = ["a", "b", "trouble", "c"]

    table = asked(chat(server), *texts)

    assert table["ask"].to_pylist() == ["says a", "says b", None, "says c"]
    assert server.by_text == dict.fromkeys(texts, 1)


def test_no_more_questions_are_open_than_were_allowed(server):
    server.delay_seconds = 0.03

    asked(chat(server, concurrency=3), *(str(number) for number in range(18)))

    assert server.most_busy == 3


def test_requests_begin_no_faster_than_so_many_a_minute(server):
    asked(chat(server, requests_per_minute=1200), *(str(number) for number in range(9)))

    begun = sorted(server.times)
    assert begun[-1] - begun[0] >= 8 * 0.05 - 0.02  # the first may be late by as much


def test_tokens_that_the_server_does_not_count_are_null(server):
    server.counts_tokens = False

    assert asked(chat(server), "hello")["ask_prompt_tokens"].to_pylist() == [None]


def test_a_null_in_the_prompt_is_an_error_of_its_row(server):
    table = asked(chat(server), "hello", None)

    assert table["ask"].to_pylist() == ["says hello", None]
    assert "'text' is null in this row" in table["error"].to_pylist()[1]["message"]


def test_what_is_no_text_comes_into_the_prompt_as_json(server):
    table = pa.table({"count": [3], "tags": [["红", "b"]]})

    done = apply(chat(server, prompt="{count} {tags}"), table)

    assert done["ask"].to_pylist() == ['says 3 ["红", "b"]']


def test_the_secret_is_sent_and_stands_nowhere_else(server, monkeypatch, caplog):
    monkeypatch.setenv("CHAT_KEY", f"{CANARY}\n")
    operator = chat(server, key_from="CHAT_KEY", prompt="{text}")
    server.faults["refused"] = Fault("status", status=401, text="AUTHORIZATION is wrong")
    server.faults["bad"] = Fault("status", status=400, text="AUTHORIZATION is wrong")
    server.faults["odd"] = Fault("raw", times=9, text=f"<html>{CANARY}")

    with caplog.at_level(logging.DEBUG):
        table = asked(operator, "fine", "refused", "bad", "odd")

    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}
    refused = table["error"].to_pylist()[1]
    assert (refused["code"], refused["transient"]) == ("forbidden", False)
    assert "secret in the environment variable CHAT_KEY" in refused["message"]
    assert "***" in refused["message"]
    told = [str(table.to_pylist()), json.dumps(operator.description), caplog.text, repr(operator)]
    assert all(CANARY not in text for text in told)
    assert CANARY.encode() not in pickle.dumps(operator)


def test_a_server_that_wants_a_secret_is_answered_with_how_to_give_one(server):
    server.faults["trouble"] = Fault("status", status=403)

    error = error_of(chat(server))

    assert error["code"] == "forbidden"
    assert "with key_from" in error["message"]


@pytest.mark.parametrize("secret", [None, "", "two words", "geheim-é"])
def test_a_secret_that_cannot_be_sent_is_refused_unseen(server, monkeypatch, secret):
    monkeypatch.setenv("CHAT_KEY", "good")
    operator = pickle.loads(pickle.dumps(chat(server, key_from="CHAT_KEY")))
    if secret is None:
        monkeypatch.delenv("CHAT_KEY")
    else:
        monkeypatch.setenv("CHAT_KEY", secret)

    with pytest.raises(ConfigError, match="CHAT_KEY") as caught:
        chat(server, key_from="CHAT_KEY")
    with pytest.raises(OperatorError, match="CHAT_KEY"):
        operator.load()
    assert not secret or secret not in str(caught.value)


def test_the_key_follows_what_is_asked_and_not_where_or_how_fast():
    given = {"url": "http://one/v1", "prompt": "{text}"}
    key = Chat("m", **given).key
    same = [{"url": "https://two/v1"}, {"concurrency": 2}, {"timeout": 5}, {"name": "other"}]
    other = [
        {"prompt": "{text}!"},
        {"image": False},
        {"max_tokens": 9},
        {"temperature": 1},
        {"schema": {"a": "string"}},
        {"upstream_keys": {"text": "0"}},
    ]

    assert {Chat("m", **{**given, **options}).key for options in same} == {key}
    keys = [Chat("m", **{**given, **options}).key for options in other]
    assert len({key, *keys, Chat("n", **given).key}) == len(other) + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "{caption"}, "brace alone .* write {column} for a row's value"),
        ({"prompt": "say }"}, "brace alone"),
        ({"prompt": "{}"}, r"has {}, which names no column"),
        ({"prompt": "{caption!r}"}, r"has {caption!r}, which names no column"),
        ({"prompt": '{"colour": 1}'}, "names no column"),
        ({"prompt": "{image_encoded}"}, "the picture is sent by image: true"),
        ({"prompt": " "}, "prompt is ' '; it must be a text"),
        ({"url": "127.0.0.1:8000/v1"}, "url is '127.0.0.1:8000/v1'; give it up to the version"),
        ({"url": "http://h/v1/chat/completions"}, "give it up to the version"),
        ({"url": "http://[h/v1"}, "give it up to the version"),
        ({"image": "yes"}, "image is 'yes'; it must be true or false"),
        ({"concurrency": 0}, "concurrency is 0; it must be an integer of at least 1"),
        ({"attempts": True}, "attempts is True"),
        ({"timeout": 0}, "timeout is 0; it must be a number, more than 0"),
        ({"timeout": None}, "timeout is None"),
        ({"requests_per_minute": -1}, "requests_per_minute is -1"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be a number, at least 0"),
        ({"key_from": "sk-x y"}, "key_from must name an environment variable"),
        ({"schema": {}}, "must map names of fields to kinds"),
        ({"schema": {"a": "strng"}}, "'a' is 'strng'; did you mean 'string'"),
        ({"schema": {"a b": "string"}}, "'a b' names a column; use letters"),
        ({"schema": {"a": "string", "A": "string"}}, "field 'A' is there already"),
        ({"schema": {"key": "string"}}, "field 'key' is there already"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    given = {"url": "http://127.0.0.1:8000/v1", "prompt": "{text}", **options}

    with pytest.raises(ConfigError, match=message):
        Chat("m", **given)


@pytest.mark.parametrize("url", [f"http://u:{CANARY}@h/v1", f"http://h/v1?key={CANARY}"])
def test_a_secret_in_the_url_is_refused_unseen(url):
    with pytest.raises(ConfigError, match="a secret is taken from the environment") as caught:
        Chat("m", url=url, prompt="hello")
    assert CANARY not in str(caught.value)
