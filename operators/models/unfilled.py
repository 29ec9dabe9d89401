"""Nets that have shapes and no values yet, to be filled from a checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWING = frozenset({"normal_", "uniform_"})  # in-place, of torch.nn.init and of tensors


@contextmanager
def unfilled() -> Iterator[None]:
    """Lets nets be built for the length of a `with` whose tensors are on torch's `meta` device.

    Nothing is drawn: to draw on `meta`, torch imports its compiler, which takes each process about
    a second (torch 2.13).
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of initial values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func.__name__ in DRAWING:
            return args[0] if args else named["tensor"]
        return func(*args, **named)
