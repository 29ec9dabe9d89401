"""The embedder that an index's vectors came from, and that its queries need.

A vector means nothing to another model, so a query is embedded by the very version that embedded
the table: its key must be that of the index.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError, ModelError
from schemas.index import IndexState

if TYPE_CHECKING:
    from operators.embedder import Embedder

EMBEDDED = "embedded:embedder"  # tried where neither the user nor the table says


def embedder_of(state: IndexState, path: str, model: str | None = None) -> "Embedder":
    """Builds the embedder of an index; no weights are read.

    Args:
        state: of the index.
        path: of the index, for messages.
        model: where it is; None for where it was when the table was made.

    Raises:
        ConfigError: it is another one, or nobody says where it is.
        ModelError: there is no embedder.
    """
    known = model or state.model
    if known is not None:
        return check_embedder(
            known,
            key=state.key,
            description=state.description,
            where=path,
            is_given=model is not None,
        )
    found = _built(EMBEDDED, state.description)
    if found.key == state.key:
        return found
    raise ConfigError(
        f"{path}: does not say where the model of its embedder {state.key} is; give its directory "
        "with --model, or search by --words, which needs none"
    )


def check_embedder(
    model: str,
    *,
    key: str,
    description: Mapping[str, Any],
    where: str,
    is_given: bool = True,
) -> "Embedder":
    """Builds an embedder and makes sure that its key is the one that vectors were made by.

    Args:
        model: where it is.
        key: of the embedder that made the vectors.
        description: what that key is made of; empty where nobody knows.
        where: the vectors are, for messages.
        is_given: whether the user named the model.

    Raises:
        ConfigError: it is another one.
        ModelError: there is no embedder.
    """
    try:
        found = _built(model, description)
    except ModelError as error:
        if is_given:
            raise
        raise ModelError(f"{error}; say with --model where the model is now") from error
    if found.key != key:
        raise ConfigError(
            f"{where}: its vectors were made by the embedder {key}{_weights(description)}, but "
            f"{model} is {found.key}{_weights(found.description)}; give the model that they were "
            "made by with --model, or enrich the table with this one and run `tagline index` again"
        )
    return found


def placed(model: str) -> str:
    """A model as it is found from any folder."""
    return os.path.abspath(model) if os.path.isdir(model) else model


def options_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The options with which an embedder was built, of what its key is made of."""
    given = {**description.get("options", {}), "precision": description.get("precision")}
    return {name: given[name] for name in ("rounding", "precision") if given.get(name)}


def _built(model: str, description: Mapping[str, Any]) -> "Embedder":
    from operators.embedder import Embedder

    return Embedder(model, **options_of(description))


def _weights(description: Mapping[str, Any]) -> str:
    weights = str(description.get("weights", ""))
    return f" (weights {weights[:12]}…)" if weights else ""
