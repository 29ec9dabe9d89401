"""The HTTP application: routes, their errors as JSON, their description as OpenAPI.

Bodies are read by `questions.Reader` and not by FastAPI, which would read them whole before any
limit could be held against them. FastAPI's own pages of documentation load scripts from elsewhere;
`/openapi.json` is served, they are not.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from jobs.serving import answers, openapi
from jobs.serving.chain import Chain
from jobs.serving.door import Door
from jobs.serving.figures import Figures
from jobs.serving.questions import Question, Reader
from jobs.serving.refusals import Refusal

if TYPE_CHECKING:
    from jobs.serving.search import Searcher

PAGE = Path(__file__).parent / "page.html"
PAGE_POLICY = (  # the page is one file and talks to this server alone
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Service:
    """What the routes need.

    Args:
        chain: the operators.
        reader: of questions.
        searcher: of the index; None where the config names none.
        figures: what is counted.
        timeout: from a question's last byte to its answer.
    """

    chain: Chain
    reader: Reader
    searcher: "Searcher | None"
    figures: Figures
    timeout: timedelta

    async def answer(
        self, request: Request, answer: Callable[[Question], Awaitable[Any]]
    ) -> JSONResponse:
        """Answers a question with JSON; several answers become `{"answers": […]}`."""
        found = await self.answered(request, answer)
        if isinstance(found, list):
            return JSONResponse({"answers": [_plain(one) for one in found]})
        return JSONResponse(_plain(found))

    async def answered(self, request: Request, answer: Callable[[Question], Awaitable[Any]]) -> Any:
        """Reads a question and has it answered in time, as long as the client waits for it.

        Raises:
            Refusal: the question is none, its answer cannot be had, or comes too late.
        """
        async with self.reader.read(request) as question:
            seconds = self.timeout.total_seconds()
            work = asyncio.ensure_future(answer(question))
            gone = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait({work, gone}, timeout=seconds, return_when="FIRST_COMPLETED")
                if work.done():
                    return work.result()
                if gone.done():
                    raise Refusal(400, "disconnected", "the client went away")
            finally:
                work.cancel()
                gone.cancel()
        raise Refusal(504, "timeout", f"no answer within {seconds:g} seconds (serve.timeout)")


def build_application(service: Service, *, tokens: list[str], max_queued_requests: int) -> ASGIApp:
    """Builds the application and the door around it."""
    app = FastAPI(title="tagline", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_questions(app, service)
    _add_tags_and_search(app, service)
    _add_pages(app, service)
    return Door(
        app, tokens=tokens, max_queued_requests=max_queued_requests, figures=service.figures
    )


def _add_questions(app: FastAPI, service: Service) -> None:
    chain = service.chain

    @app.post("/v1/caption", **openapi.route("caption"))
    async def caption(request: Request) -> Any:
        """Describe an image."""
        return await service.answer(request, lambda asked: answers.caption(chain, asked))

    @app.post("/v1/entailment", **openapi.route("entailment"))
    async def entailment(request: Request) -> Any:
        """Say of each text whether it holds for the image: yes, no or maybe."""
        return await service.answer(request, lambda asked: answers.entailment(chain, asked))

    @app.post("/v1/match", **openapi.route("match"))
    async def match(request: Request) -> Any:
        """Say of each text how probably it and the image belong together."""
        return await service.answer(request, lambda asked: answers.match(chain, asked))

    @app.post("/v1/embed", **openapi.route("embed"))
    async def embed(request: Request) -> Any:
        """Place an image, and texts, in the space they share."""
        return await service.answer(request, lambda asked: answers.embed(chain, asked))

    @app.post("/v1/operators/{name}", **openapi.route("operators"))
    async def operators(request: Request, name: str) -> Any:
        """Give what any operator of the config writes, as a table would have it."""
        link = chain.named(name)
        return await service.answer(request, lambda asked: answers.columns(chain, link, asked))


def _add_tags_and_search(app: FastAPI, service: Service) -> None:
    @app.post("/v1/tags", **openapi.route("tags"))
    async def tags(request: Request) -> Any:
        """Name what holds of the image, from the config's taxonomy."""
        return await service.answer(request, lambda asked: answers.tags(service.chain, asked))

    @app.post("/v1/search", **openapi.route("search"))
    async def search(request: Request) -> Any:
        """Find the enriched images nearest to a text or an image."""
        searcher = service.searcher
        if searcher is None:
            message = "this server's config names no index; give it one: serve: {index: PATH}"
            raise Refusal(404, "no_index", message)
        return await service.answer(request, lambda asked: searcher.answer(service.chain, asked))


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", **openapi.HEALTH)
    async def healthz() -> Any:
        """Say whether every operator is there to answer; nothing listens before they are."""
        gone = await service.chain.backend.gone()
        if gone:
            raise Refusal(503, "crashed", f"not running, and being replaced: {', '.join(gone)}")
        return {"status": "ok"}

    @app.get("/v1/operators", **openapi.OPERATORS)
    async def known() -> Any:
        """Name the operators of the config, and the columns of captions of its index."""
        links = service.chain.links.values()
        operators = {
            link.name: {"use": link.use, "reads_text": link.said is not None} for link in links
        }
        index = service.searcher and {"captions": service.searcher.captions}
        return {"operators": operators, "index": index}

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Any:
        """Give what was counted, in Prometheus' text format."""
        return PlainTextResponse(service.figures.text(), media_type="text/plain; version=0.0.4")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Any:
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "no_route", 405: "method"}.get(error.status_code, "http")
        message = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
        return Refusal(error.status_code, code, message).response(error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        message = f"{type(error).__name__}; the server's log has the rest"
        return Refusal(500, "internal", message).response()


def _plain(answer: Any) -> Any:
    """An answer as JSON's own types, without what it does not say."""
    return answer.model_dump(exclude_none=True) if isinstance(answer, BaseModel) else answer


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
