"""Asks a chat model about every row, at any endpoint that speaks OpenAI's protocol.

vLLM, SGLang and the vendors do. Where the endpoint is, is not in the key: a model answers alike
wherever it is served, and moving a server shall not cost all answers again. New weights behind an
old name go unnoticed, so a model is best named with its version.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from operators.answer_form import AnswerForm, is_text
from operators.base import fingerprint
from operators.images import data_url
from operators.prompt import Prompt
from schemas.enriched import IMAGE_ENCODED, chat_schema
from schemas.errors import ConfigError, RowFault, RowFaults

if TYPE_CHECKING:
    from operators.endpoint import Answer, Endpoint

CODE_VERSION = 1  # raise when outputs change
ROWS_PER_CONNECTION = 16  # of a call, so that threads wait little for the last of them
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Result:
    """A row's values by column, and the digest of what was asked."""

    asked: bytes
    values: Mapping[str, Any]
    is_cut: bool


class Chat:
    """Writes a chat model's answer to a question about each row.

    Args:
        model: as the endpoint calls it.
        url: of the endpoint, up to and with the version: `http://127.0.0.1:8000/v1`.
        prompt: the question; `{column}` stands for a row's value.
        name: the column to write; with a schema, what the columns begin with.
        image: whether the picture goes with the question.
        schema: fields that the answer must have, and their kinds: string, integer, number, boolean
            or `list of strings`; each becomes a column.
        max_tokens: that an answer may have; None leaves it to the endpoint.
        temperature: 0 for the likeliest answer; None leaves it to the endpoint.
        concurrency: questions at once, of each actor.
        requests_per_minute: of each actor; there is one unless `resources` asks for more.
        timeout: seconds for one answer.
        attempts: tries of a question that fails by what may pass.
        key_from: the environment variable with the secret.
        upstream_keys: for columns it reads, the key of the operator that wrote them.

    Raises:
        ConfigError: an option has no such value; with every fault.
    """

    is_remote = True  # see `operators.base.Operator`

    def __init__(
        self,
        model: str,
        *,
        url: str,
        prompt: str,
        name: str = "answer",
        image: bool = True,
        schema: Mapping[str, str] | None = None,
        max_tokens: int | None = 256,
        temperature: float | None = 0,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        timeout: float = 60,
        attempts: int = 5,
        key_from: str | None = None,
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.connection: dict[str, Any] = {
            "url": url,
            "key_from": key_from,
            "connections": concurrency,
            "requests_per_minute": requests_per_minute,
            "timeout_seconds": timeout,
            "attempts": attempts,
        }
        self.sampling = {"max_tokens": max_tokens, "temperature": temperature}
        _check_options(name, model, prompt, image, {**self.connection, **self.sampling})
        self.name, self.model, self.image = name, model, image
        self.prompt, self.form = _read_texts(name, prompt, schema)
        self.reads = (*((IMAGE_ENCODED,) if image else ()), *self.prompt.columns)
        self.writes = chat_schema(name, self.form.columns if self.form else None)
        self.batch_rows = ROWS_PER_CONNECTION * concurrency
        self.description: Mapping[str, Any] = {
            "operator": "chat",
            "code": CODE_VERSION,
            "model": model,
            "options": {
                "prompt": prompt,
                "image": image,
                "schema": [list(field) for field in self.form.fields.items()]
                if self.form
                else None,
                **self.sampling,
            },
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)
        self._endpoint: Endpoint | None = None
        self._kept: Mapping[bytes, _Result] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickles all but the connection, and with it the secret."""
        return {**self.__dict__, "_endpoint": None, "_kept": {}}

    def load(self) -> None:
        """Takes the secret from the environment; connects with the first question.

        Raises:
            OperatorError: the secret is not there.
        """
        self._loaded()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Asks about all rows, `concurrency` at once.

        When rows fail, the answers of the others are kept for the next call, which asks for them
        again: they took time, and may cost money.

        Raises:
            RowFaults: names the rows without an answer.
        """
        self._loaded()
        cells = table.select(list(self.prompt.columns)).to_pylist() or [{}] * table.num_rows
        images = table[IMAGE_ENCODED] if self.image else [None] * table.num_rows
        with ThreadPoolExecutor(self.connection["connections"]) as threads:
            results = list(threads.map(self._settled, cells, images))
        done = [result for result in results if isinstance(result, _Result)]
        if len(done) < len(results):
            self._kept = {result.asked: result for result in done}
            faults = {at: found for at, found in enumerate(results) if isinstance(found, RowFault)}
            raise RowFaults(faults)
        self._kept = {}
        self._log_cuts(done)
        columns = {name: [result.values[name] for result in done] for name in self.writes.names}
        return pa.table(columns, schema=self.writes)

    def _settled(self, row: Mapping[str, Any], image: pa.Scalar | None) -> _Result | RowFault:
        """The answer for a row, or why there is none."""
        try:
            question = self._question(row, image)
            asked = hashlib.sha256(question).digest()
            return self._kept.get(asked) or self._result(asked, self._loaded().ask(question))
        except RowFault as fault:
            return fault

    def _question(self, row: Mapping[str, Any], image: pa.Scalar | None) -> bytes:
        """The body of a request."""
        text = self.prompt.fill(row)
        content: str | list[dict[str, Any]] = text
        if image is not None:
            if not image.is_valid:
                raise RowFault("missing", "the image was not fetched; run the row again")
            url = {"url": data_url(bytes(image.as_py()))}
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": url}]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            **{name: value for name, value in self.sampling.items() if value is not None},
            **({"response_format": self.form.response_format} if self.form else {}),
        }
        return json.dumps(body, ensure_ascii=False).encode()

    def _result(self, asked: bytes, answer: "Answer") -> _Result:
        if self.form and answer.is_cut:
            raise RowFault("model", f"the answer was cut at {self._bound}; allow more max_tokens")
        if not is_text(answer.text):
            raise RowFault("model", "the answer has half a surrogate pair, which is no text")
        found = self.form.read(answer.text) if self.form else None
        values = {self.name: answer.text} if found is None else self._named(found)
        tokens = {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
        }
        return _Result(asked, {**values, **self._named(tokens)}, answer.is_cut)

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{self.name}_{field}": value for field, value in values.items()}

    @property
    def _bound(self) -> str:
        most = self.sampling["max_tokens"]
        return "the endpoint's own bound" if most is None else f"{most} tokens"

    def _loaded(self) -> "Endpoint":
        if self._endpoint is None:
            from operators.endpoint import Endpoint

            self._endpoint = Endpoint(**self.connection)
        return self._endpoint

    def _log_cuts(self, results: Sequence[_Result]) -> None:
        cut = sum(result.is_cut for result in results)
        if cut:
            logger.warning("event=answers_cut operator=%s rows=%d", self.name, cut)


def _read_texts(
    name: str, prompt: str, schema: Mapping[str, str] | None
) -> tuple[Prompt, AnswerForm | None]:
    try:
        return Prompt(prompt), None if schema is None else AnswerForm(schema)
    except ConfigError as error:
        raise ConfigError(f"operator {name!r}: {error}") from error


def _check_options(
    name: str, model: object, prompt: object, image: object, options: Mapping[str, Any]
) -> None:
    faults = [
        f"{what} is {text!r}; it must be a text"
        for what, text in (("model", model), ("prompt", prompt))
        if not isinstance(text, str) or not text.strip()
    ]
    if not isinstance(image, bool):
        faults.append(f"image is {image!r}; it must be true or false")
    faults += _url_faults(options["url"])
    faults += _number_faults(options)
    faults += _secret_faults(options["key_from"])
    if faults:
        raise ConfigError(f"operator {name!r}: " + "; ".join(faults))


def _url_faults(url: object) -> list[str]:
    example = "give it up to the version, such as http://127.0.0.1:8000/v1"
    if not isinstance(url, str):
        return [f"url is {url!r}; {example}"]
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
        parts = urlsplit("")
    if "@" in parts.netloc or parts.query or parts.fragment:
        return ["url holds more than a place; a secret is taken from the environment, by key_from"]
    if not is_whole or re.search(r"\s", url) or parts.path.rstrip("/").endswith("/completions"):
        return [f"url is {url!r}; {example}"]
    return []


def _number_faults(options: Mapping[str, Any]) -> list[str]:
    faults = []
    for name in ("connections", "attempts", "max_tokens"):
        value = options[name]
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_count and not (value is None and name == "max_tokens"):
            shown = {"connections": "concurrency"}.get(name, name)
            faults.append(f"{shown} is {value!r}; it must be an integer of at least 1")
    for name in ("timeout_seconds", "requests_per_minute", "temperature"):
        value, least = options[name], 0
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = is_number and math.isfinite(value) and (value > least or name == "temperature")
        if not (is_right and value >= least) and not (value is None and name != "timeout_seconds"):
            shown = name.removesuffix("_seconds")
            bound = "at least" if name == "temperature" else "more than"
            faults.append(f"{shown} is {value!r}; it must be a number, {bound} 0")
    return faults


def _secret_faults(key_from: object) -> list[str]:
    if key_from is None:
        return []
    if not isinstance(key_from, str) or not VARIABLE.fullmatch(key_from):
        return ["key_from must name an environment variable, such as OPENAI_API_KEY"]
    from operators.endpoint import secret_fault

    fault = secret_fault(key_from)
    return [fault] if fault else []
