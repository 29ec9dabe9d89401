"""What the sections of all configs share: strictness, and how a length of time is given."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    """Reads `30m`, `1h`; everything else is pydantic's to judge."""
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value) if isinstance(value, str) else None
    )
    if found:
        return timedelta(seconds=float(found[1]) * UNIT_SECONDS[found[2]])
    if isinstance(value, timedelta):
        return value
    raise ValueError("give a number with its unit, such as 30m, 1h or 90s")


Duration = Annotated[timedelta, BeforeValidator(_duration)]


class Strict(BaseModel):
    """A section that refuses keys it does not know, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
