"""How the S3 of manifests and tables is asked again: by its libraries' own retries, for minutes.

s3fs tries a request again after growing pauses, and so with a body that broke off; deltalake asks
through object_store, which leaves bodies that break off and PUTs without an answer to
`asked_again`. Here they are told for how long, and have to say what they wait for.

Source: https://delta-io.github.io/delta-rs/integrations/object-storage/special_configuration
"""

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from operators.patience import TOLD_FROM_SECONDS, TOLD_SECONDS
from operators.sources import CONNECT_SECONDS, SILENT_SECONDS

ROUNDS = 20  # tries of s3fs's, up to 15 seconds apart: three minutes, ten where each is silent
PATIENT_DELTA: Mapping[str, str] = {
    "max_retries": "30",
    "retry_timeout": "60s",  # and then `asked_again` begins anew
    "backoff_config.init_backoff": "200ms",
    "backoff_config.max_backoff": "15s",
    "connect_timeout": f"{CONNECT_SECONDS:g}s",
}
HASTY_SECONDS = 5.0  # without a byte, where an answer is wanted soon or not at all
HASTY_DELTA: Mapping[str, str] = {
    "max_retries": "1",
    "retry_timeout": f"{HASTY_SECONDS:g}s",
    "connect_timeout": f"{HASTY_SECONDS:g}s",
    "timeout": f"{HASTY_SECONDS:g}s",
}
BUSY_STATUS = 429
LASTING_STATUS = (501, 507)  # of the server's faults: not built, no room

STORE_SECONDS = 180.0  # until a store is asked no more for one thing
PAUSE_SECONDS = 1.0  # the most before the second try; doubled for each further one
LONGEST_SECONDS = 15.0  # of one pause
S3_FAULT = "Generic S3 error"  # of object_store: no answer, a body that broke off, 5xx in the end
NO_ROOM = ("507 ", "Storage Full")

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

_is_hasty: ContextVar[bool] = ContextVar("is_hasty", default=False)


@contextmanager
def hastily() -> Iterator[None]:
    """Has this thread wait for no store, for the length of a `with`: an answer soon, or none."""
    before = _is_hasty.set(True)
    try:
        yield
    finally:
        _is_hasty.reset(before)


def asked_again(
    ask: Callable[[], Answer],
    what: str,
    *,
    passes: Callable[[Exception], bool],
    seconds: float = STORE_SECONDS,
) -> Answer:
    """Asks a store again after what its library gives up, and says so.

    Args:
        ask: raises what went wrong.
        what: it does, such as `open s3://photos/table`.
        passes: whether an error may pass.
        seconds: after which no new try is begun.

    Raises:
        Exception: what `ask` raises at last, or does not pass.
    """
    begun = time.monotonic()
    for trial in count(1):
        try:
            return ask()
        except Exception as error:
            waited = time.monotonic() - begun
            if waited >= seconds or _is_hasty.get() or not passes(error):
                raise
            told = " ".join(str(error).split())[:200]
            logger.warning("event=store_waiting for=%s waited=%.1f said=%s", what, waited, told)
        pause(trial)
    raise AssertionError("the last try returns or raises")


def pause(trial: int) -> None:
    """Waits before the next try, longer after each."""
    longest = min(LONGEST_SECONDS, PAUSE_SECONDS * 2.0 ** (trial - 1))
    time.sleep(random.uniform(longest / 2, longest))


def passes_for_delta(error: Exception) -> bool:
    """Whether what deltalake raises may pass; object_store tells a refusal by another name."""
    return S3_FAULT in str(error) and not any(sign in str(error) for sign in NO_ROOM)


def delta_options() -> dict[str, str]:
    """How long deltalake's object_store is to try."""
    return dict(HASTY_DELTA if _is_hasty.get() else PATIENT_DELTA)


def s3_filesystem() -> Any:
    """Opens s3fs; the same instance for the same environment. fsspec's configuration goes first."""
    from s3fs.core import set_custom_error_handler

    is_hasty, own = _is_hasty.get(), fsspec.config.conf.get("s3", {})
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    silent = HASTY_SECONDS if is_hasty else SILENT_SECONDS
    config = {
        "connect_timeout": min(CONNECT_SECONDS, silent),
        "read_timeout": silent,
        "retries": {"mode": "legacy", "max_attempts": 0},
        **own.get("config_kwargs", {}),
    }
    options = {"config_kwargs": config}
    if "session" not in own:
        options["session"] = _session(tuple(sorted(variables.items())), own.get("profile"))
    opened = fsspec.filesystem("s3", use_listings_cache=False, **options)
    opened.retries = 1 if is_hasty else ROUNDS  # s3fs has no parameter for that
    set_custom_error_handler(_may_pass)
    return opened


@lru_cache(maxsize=8)
def _session(_variables: tuple[tuple[str, str], ...], profile: str | None) -> Any:
    """A session that tells of waits; it remembers the credentials of the environment."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile)
    session.register("needs-retry.s3", _Told())
    return session


class _Told:
    """Is asked by botocore whether to try again: has no opinion, but tells that it goes on."""

    def __init__(self) -> None:
        self.failing_since: float | None = None
        self.told = 0.0

    def __call__(self, *, response: Any, endpoint: Any, caught_exception: Any, **_: object) -> None:
        """Takes botocore's event `needs-retry`."""
        status = response[0].status_code if response else 0
        if caught_exception is None and status < 500 and status != BUSY_STATUS:
            self.failing_since = None
            return
        now = time.monotonic()
        self.failing_since = self.failing_since or now
        waited = now - self.failing_since
        if waited < TOLD_FROM_SECONDS or now - self.told < TOLD_SECONDS:
            return
        self.told = now
        logger.warning(
            "event=store_waiting host=%s code=%s waited=%.1f said=%s",
            urlsplit(endpoint.host).netloc,
            status or "unavailable",
            waited,
            caught_exception or response[1].get("Error", {}).get("Message", ""),
        )


def _may_pass(error: Exception) -> bool:
    """Whether s3fs is to begin again after an error that it would not by itself."""
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import SSLError

    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return (status >= 500 or status == BUSY_STATUS) and status not in LASTING_STATUS
    is_broken = isinstance(error, ConnectionError | NoConnection)  # of a body that broke off, too
    return is_broken and not isinstance(error, SSLError)
