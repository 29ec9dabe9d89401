"""How the routes describe themselves in `/openapi.json`: what they take, with examples."""

from typing import Any

from jobs.serving.questions import Body

PIXEL = (  # a PNG of one pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AA"
    "AAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
ALTERNATIVES = [{"text": "a red apple", "score": -0.12}, {"text": "an apple", "score": -0.6}]
CAPTION = {"image": "a.png", "text": "a red apple", "score": -0.12, "alternatives": ALTERNATIVES}
ODDS = {"label": "yes", "yes": 0.98, "no": 0.01, "maybe": 0.01}
MATCH = {"image": "a.png", "text": "a red apple", "score": 0.97, "similarity": 0.41}
TAG = {"label": "apple", "answer": "yes", "yes": 0.97, "similarity": 0.4}
HIT = {"image_id": "7", "uri": "7.png", "score": 0.03, "similarity": 0.41}
EXAMPLES: dict[str, tuple[dict[str, Any], Any]] = {  # a question and its answer, by route
    "caption": ({"image": PIXEL}, CAPTION),
    "entailment": (
        {"image": PIXEL, "text": ["there is an apple"]},
        {"answers": [{"image": "a.png", "text": "there is an apple", **ODDS}]},
    ),
    "match": ({"image": PIXEL, "text": "a red apple"}, {"answers": [MATCH]}),
    "embed": (
        {"image": PIXEL, "text": ["a red apple", "红苹果"]},
        {"answers": [{"text": "a red apple", "embedding": [0.6, 0.8]}]},
    ),
    "operators": ({"image": PIXEL}, {"image": "a.png", "caption": "a red apple"}),
    "tags": ({"image": PIXEL}, {"image": "a.png", "tags": [TAG]}),
    "search": (
        {"text": "红色的苹果", "limit": 3},
        {"answers": [{**HIT, "caption": "a red apple"}]},
    ),
}
ERROR = {"error": {"code": "not_an_image", "message": "the file begins with b'GIF…'"}}
REFUSALS = {
    401: "the token is missing or unknown",
    403: "the image is where none may come from",
    408: "the body did not arrive in time",
    413: "the body or the file is too large",
    415: "the file is no image, or of another format",
    422: "the question cannot be answered; the message says why",
    503: "as many questions as allowed are being answered; see Retry-After",
    504: "the answer took too long",
}
HEALTH: dict[str, Any] = {
    "responses": {
        200: {"content": {"application/json": {"example": {"status": "ok"}}}},
        503: {"description": "an operator's process is gone; the message names it"},
    }
}
OPERATORS: dict[str, Any] = {
    "responses": {
        200: {
            "content": {
                "application/json": {
                    "example": {
                        "operators": {"caption": {"use": "captioner", "reads_text": False}},
                        "index": None,
                    }
                }
            }
        }
    }
}


def route(name: str) -> dict[str, Any]:
    """The keyword arguments of FastAPI that describe a route which takes a question."""
    asked, answered = EXAMPLES[name]
    form = {"type": "object", "properties": {**_properties(), "image": _file(), "text": _texts()}}
    refusals: dict[int | str, Any] = {
        status: {"description": told, "content": {"application/json": {"example": ERROR}}}
        for status, told in REFUSALS.items()
    }
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {"schema": form},
                    "application/json": {"schema": _json_schema(), "example": asked},
                },
            }
        },
        "responses": {
            200: {"content": {"application/json": {"example": answered}}},
            404: {"description": "the config has no such operator, or no index"},
            **refusals,
        },
    }


def _json_schema() -> dict[str, Any]:
    return Body.model_json_schema()


def _properties() -> dict[str, Any]:
    return dict(_json_schema()["properties"])


def _file() -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": "a file; or a URL as text"}


def _texts() -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}}
