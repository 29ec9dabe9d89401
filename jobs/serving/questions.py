"""What a client asks, read from a form or from JSON within limits that hold before anything is.

The body is counted while it arrives: one that is too large, or never ends, is cut. An image is
judged by its header, size in pixels included, and decoded only by the operators.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from jobs.serving.multipart import Part, read_parts
from jobs.serving.refusals import Refusal
from operators.images import verified_bytes
from schemas.config import nearest
from schemas.errors import RowFault
from schemas.sections import Strict

FORM_BYTES = 1_000_000  # of a body beside its image
HELD_BYTES = 512_000_000  # of the bodies of all questions that are not answered yet
MOST_TEXTS = 64
TEXT_CHARACTERS = 2_000  # more than any model reads
KINDS = "multipart/form-data or application/json"

Fetch = Callable[[str], Awaitable[bytes]]


class Body(Strict):
    """A question as JSON.

    Args:
        image: a data URL, or an http(s) URL of a host that the config allows.
        text: one or several.
        premise: what is known besides the image.
        operator: a name of the config; the first of the right kind when absent.
        limit: of a search.
        pictures: whether a search gives small pictures too, as data URLs.
    """

    image: str | None = None
    text: str | list[str] | None = None
    premise: str | None = None
    operator: str | None = None
    limit: int | None = None
    pictures: bool = False


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        name: what the image is called in the answer: its file name or URL.
        image: encoded, its header checked.
    """

    name: str = ""
    image: bytes | None = None
    texts: tuple[str, ...] = ()
    premise: str | None = None
    operator: str | None = None
    limit: int | None = None
    pictures: bool = False


class Reader:
    """Reads questions, and keeps count of the bytes of those that are not answered yet.

    Args:
        image_bytes: the largest file.
        pixel_limit: the largest image, in pixels.
        upload_timeout: for all bytes of a body.
        fetch: gets the bytes behind a URL; raises RowFault.
        held_limit: bytes of all questions together; a single one may always be held.
    """

    def __init__(
        self,
        *,
        image_bytes: int,
        pixel_limit: int,
        upload_timeout: timedelta,
        fetch: Fetch,
        held_limit: int = HELD_BYTES,
    ) -> None:
        self.image_bytes = image_bytes
        self.pixel_limit = pixel_limit
        self.upload_timeout = upload_timeout
        self.fetch = fetch
        self.held_limit = held_limit
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Question]:
        """Reads a question to its end, for the length of a `with`.

        Raises:
            Refusal: it is too large, too slow, no question, or its image is none that is allowed;
                or there is no room for it.
        """
        before = _Held(self)
        try:
            yield await self._read(request, before)
        finally:
            self.held -= before.count

    async def _read(self, request: Request, held: "_Held") -> Question:
        kind = request.headers.get("content-type", "")
        short = kind.partition(";")[0].strip().lower()
        if short not in ("multipart/form-data", "application/json"):
            found = f"it is {short!r}" if short else "there is none"
            raise Refusal(415, "content_type", f"the Content-Type must be {KINDS}; {found}")
        is_json = short == "application/json"
        grown = self.image_bytes * 4 // 3 if is_json else self.image_bytes  # by base64
        data = await self._body(request, grown + FORM_BYTES, held)
        try:
            return await self._question(data, None if is_json else kind)
        except RowFault as fault:
            raise Refusal.of(fault) from fault

    async def _question(self, data: bytes, form: str | None) -> Question:
        """Parses in a thread: a large body takes long enough to keep others waiting."""
        read = read_json if form is None else lambda data: read_form(data, form)
        question, place = await asyncio.to_thread(read, data)
        if place is not None and not place.startswith("data:"):
            question = replace(question, name=place, image=await self.fetch(place))
        elif place is not None:
            question = replace(question, image=await asyncio.to_thread(read_data_url, place))
        if question.image is not None:
            await asyncio.to_thread(self._check, question.image)
        return question

    def _check(self, image: bytes) -> None:
        if len(image) > self.image_bytes:
            found = f"the file has {len(image)} bytes; at most {self.image_bytes} are allowed"
            raise RowFault("too_large", f"{found} (limits.image_bytes)")
        verified_bytes(image, pixel_limit=self.pixel_limit)

    async def _body(self, request: Request, limit: int, held: "_Held") -> bytes:
        parts: list[bytes] = []
        declared = request.headers.get("content-length", "")
        seconds = self.upload_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                if declared.isdigit() and int(declared) > limit:
                    raise _too_large(f"{declared} bytes", limit)
                async for part in request.stream():
                    held.take(len(part))
                    if held.count > limit:
                        raise _too_large(f"more than {limit} bytes", limit)
                    parts.append(part)
        except TimeoutError:
            message = f"the body did not arrive within {seconds:g} seconds (serve.upload_timeout)"
            raise Refusal(408, "timeout", message) from None
        except ClientDisconnect:
            raise Refusal(400, "disconnected", "the connection ended before the body did") from None
        return b"".join(parts)


class _Held:
    """The bytes of one question."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.count = 0

    def take(self, wanted: int) -> None:
        """Counts bytes that arrived; raises Refusal where all questions together are too many."""
        self.count += wanted
        self.reader.held += wanted
        if self.count < self.reader.held > self.reader.held_limit:
            message = f"the questions at hand have {self.reader.held} bytes; ask again later"
            raise Refusal(503, "overloaded", message)


def read_json(data: bytes) -> tuple[Question, str | None]:
    """Reads a question from JSON; its image is given as a URL, to be read by the caller.

    Raises:
        Refusal: it is not JSON, or not a question.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "bad_json", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        found = type(document).__name__
        raise Refusal(422, "bad_json", f"the body must be a JSON object; it is a {found}")
    return _checked(document)


def read_form(data: bytes, content_type: str) -> tuple[Question, str | None]:
    """Reads a question from a form: fields as JSON's keys, `text` as often as needed.

    Raises:
        Refusal: it is not a form, or not a question.
    """
    document: dict[str, Any] = {}
    upload: Part | None = None
    for part in read_parts(data, content_type):
        if part.name == "image" and part.filename is not None:
            if upload:
                raise Refusal(422, "bad_form", "there are two images; ask about one at a time")
            upload = part
        elif part.name == "text":
            document.setdefault("text", []).append(_decoded(part))
        else:
            document[part.name] = _decoded(part)
    question, place = _checked(document)
    if upload:
        question = replace(question, name=upload.filename or "", image=upload.content)
    return question, place


def read_data_url(url: str) -> bytes:
    """Decodes a `data:` URL; the media type it claims does not matter.

    Raises:
        Refusal: it is not one.
    """
    head, found, content = url.partition(",")
    if not found:
        raise Refusal(422, "bad_data_url", "the data URL has no comma; give data:…;base64,…")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(content, validate=True)
        return unquote_to_bytes(content)
    except ValueError as error:
        raise Refusal(422, "bad_data_url", f"the data URL cannot be decoded: {error}") from None


def _checked(document: dict[str, Any]) -> tuple[Question, str | None]:
    try:
        body = Body.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(_described(fault) for fault in error.errors())
        raise Refusal(422, "bad_question", faults) from None
    texts = [body.text] if isinstance(body.text, str) else list(body.text or ())
    for text in (*texts, *([body.premise] if body.premise is not None else [])):
        _check_text(text)
    if len(texts) > MOST_TEXTS:
        raise Refusal(422, "too_many", f"{len(texts)} texts; at most {MOST_TEXTS} at a time")
    name = "data:" if (body.image or "").startswith("data:") else ""
    told = body.model_dump(include={"premise", "operator", "limit", "pictures"})
    return Question(name=name, texts=tuple(texts), **told), body.image


def _check_text(text: str) -> None:
    if not text.strip():
        raise Refusal(422, "empty_text", "the text is empty; say something about the image")
    if len(text) > TEXT_CHARACTERS:
        found = f"the text has {len(text)} characters; at most {TEXT_CHARACTERS} are allowed"
        raise Refusal(422, "text_too_long", found)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Refusal(422, "bad_text", "the text holds half a character (a lone surrogate)")


def _decoded(part: Part) -> str:
    try:
        return part.content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(422, "bad_text", f"the field {part.name!r} is not UTF-8") from None


def _described(fault: Any) -> str:
    at = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {at!r}; {nearest(at, Body.model_fields)}"
    return f"{at}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _too_large(found: str, limit: int) -> Refusal:
    message = f"the body has {found}; at most {limit} are allowed (limits.image_bytes)"
    return Refusal(413, "too_large", message)
