"""`tagline serve`: the operators of a config answer questions over HTTP.

Ray Serve runs the operators; this process listens, so that limits, refusals and the drain are its
own. It listens once all models are loaded. On SIGTERM or SIGINT it takes no more connections,
answers what it has, and ends.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.cluster import connected
from jobs.resources import allot
from jobs.serving.application import Service, build_application
from jobs.serving.chain import Chain, Link, build_chain, column_types
from jobs.serving.door import is_loopback
from jobs.serving.figures import Figures
from jobs.serving.questions import Fetch, Reader
from jobs.serving.search import Searcher, open_searcher
from operators.fetcher import Fetcher
from operators.policy import Policy
from schemas.config import ServedConfig
from schemas.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

TOKENS = "TAGLINE_TOKENS"  # environment variable; several are parted by commas
TOKEN_CHARACTERS = 16  # of the shortest token that is no invitation to guess
BACKLOG = 2048  # connections that the system keeps until they are taken
KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, lest they ask a closed one
URLS_AT_ONCE = 4  # images fetched together; each may be as large as is allowed
URL_PATIENCE_SECONDS = 1.0  # a person waits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A server that answers.

    Args:
        address: as a URL.
        links: its operators.
    """

    address: str
    links: Sequence[Link]


def run(config: ServedConfig, told: Callable[[Ready], None], *, address: str | None = None) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: checked.
        told: called once, when everything is ready.
        address: of a Ray cluster; see `jobs.cluster.connected`.

    Raises:
        ConfigError: the config cannot be served here: a taken port, no token for an open host.
        ModelError: a model is missing or damaged.
        RunError: Ray did not start, or a model could not be loaded.
    """
    tokens = read_tokens(config.serve.host)
    operators, links = build_chain(config)
    searcher = open_searcher(config.serve.index, operators)
    with listening(config.serve.host, config.serve.port) as socket_, connected(address) as capacity:
        from jobs.serving.deployments import Deployed, deploy, withdraw

        where = "the cluster" if address else "this machine"
        limit = config.serve.max_queued_requests
        handles = deploy(
            operators,
            column_types(operators),
            allot(operators, config.resources, capacity, where=where),
            batch_wait=config.serve.batch_wait,
            max_queued_requests=limit,
        )
        figures = Figures()
        chain = Chain(links, Deployed(handles, figures, limit))
        app = application(config, chain, figures, tokens=tokens, searcher=searcher)
        try:
            host, port = socket_.getsockname()[:2]
            ready = Ready(f"http://{f'[{host}]' if ':' in host else host}:{port}", links)
            listen(config, app, socket_, lambda: told(ready))
        finally:
            withdraw(list(handles))


def read_tokens(host: str) -> list[str]:
    """Reads the tokens of the environment.

    Raises:
        ConfigError: one is too short, or there is none and others than this machine could ask.
    """
    tokens = [token.strip() for token in os.environ.get(TOKENS, "").split(",") if token.strip()]
    if any(len(token) < TOKEN_CHARACTERS for token in tokens):
        raise ConfigError(
            f"{TOKENS}: a token has fewer than {TOKEN_CHARACTERS} characters; make one with "
            "`python -c 'import secrets; print(secrets.token_hex(32))'`"
        )
    if not tokens and not is_loopback(host):
        raise ConfigError(
            f"serve.host is {host!r}, which others can reach: set a token in {TOKENS}, or serve on "
            "127.0.0.1"
        )
    return tokens


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Takes a port, on which connections are refused until the server listens.

    Raises:
        ConfigError: it is taken, or the host is not this machine's.
    """
    with ExitStack() as opened:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            # asyncio sends without delay only where the protocol is named, which 0 does not: an
            # answer's body would then wait 40 ms for its head to be acknowledged
            bound = opened.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host!r}, port {port}: {error.strerror}; see serve.host and "
                "serve.port"
            ) from error
        yield bound


def application(
    config: ServedConfig,
    chain: Chain,
    figures: Figures,
    *,
    tokens: list[str],
    searcher: Searcher | None,
) -> "ASGIApp":
    """Builds the HTTP application of a config over operators that run somewhere."""
    service = Service(
        chain=chain,
        reader=Reader(
            image_bytes=config.limits.image_bytes,
            pixel_limit=config.limits.image_pixels,
            upload_timeout=config.serve.upload_timeout,
            fetch=url_reader(config),
        ),
        searcher=searcher,
        figures=figures,
        timeout=config.serve.timeout,
    )
    limit = config.serve.max_queued_requests
    return build_application(service, tokens=tokens, max_queued_requests=limit)


def url_reader(config: ServedConfig, exempt: Sequence[str] = ()) -> Fetch:
    """What gets an image behind a URL: a job's fetcher, let to the allowed hosts alone.

    Args:
        config: its `allow.hosts`, limits and timeout count.
        exempt: networks that count as public; for tests.
    """
    fetcher = Fetcher(
        [],
        Policy(buckets=(), hosts=config.allow.hosts),
        image_bytes=config.limits.image_bytes,
        pixel_limit=config.limits.image_pixels,
        timeout_seconds=config.serve.timeout.total_seconds(),
        patience_seconds=URL_PATIENCE_SECONDS,
        exempt=exempt,
    )
    threads = ThreadPoolExecutor(URLS_AT_ONCE, "url")

    async def fetch(url: str) -> bytes:
        found = await asyncio.get_running_loop().run_in_executor(threads, fetcher.image, url)
        assert found.encoded is not None  # one image always fits
        return found.encoded

    return fetch


def listen(
    config: ServedConfig, app: "ASGIApp", bound: socket.socket, told: Callable[[], None]
) -> None:
    """Answers until a signal asks to end, then answers what is left."""
    import uvicorn

    from jobs.serving.connection import Connection

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(config.serve.timeout.total_seconds()) + 1,
        )
    )
    # uvicorn ends on these signals and then raises them once more, for a handler that was there
    # before: it must not end this process before the deployments are ended
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    asyncio.run(_serve(server, bound, told))


async def _serve(server: "uvicorn.Server", bound: socket.socket, told: Callable[[], None]) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        told()
    await serving


if __name__ == "__main__":
    from jobs.cli import main

    main(["serve"])
