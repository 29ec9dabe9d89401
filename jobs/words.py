"""Cuts sentences into the words that a full-text index counts, in English and Chinese alike.

Words of scripts with spaces stay whole; the index itself lowers their case and takes their
endings. Chinese and Japanese have no spaces, so a run of their characters is known by each
character and by each two neighbours: no dictionary is needed, and a word is found wherever it
stands. A query asks for neighbours only, or for the one character that it is.
"""

import re
import unicodedata
from collections.abc import Iterable

RUN = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{RUN}]+|[^\W_{RUN}]+")
IS_RUN = re.compile(rf"[{RUN}]")


def words_to_find(text: str) -> str:
    """The words by which a text is found, with spaces between."""
    return " ".join(word for token in _tokens(text) for word in (*_characters(token), *_cut(token)))


def words_to_ask(text: str) -> str:
    """The words that a query asks for, with spaces between; empty where it has none."""
    return " ".join(word for token in _tokens(text) for word in _cut(token))


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(unicodedata.normalize("NFKC", text))


def _characters(token: str) -> Iterable[str]:
    return token if IS_RUN.match(token) and len(token) > 1 else ()


def _cut(token: str) -> Iterable[str]:
    if not IS_RUN.match(token) or len(token) == 1:
        return (token,)
    return (token[at : at + 2] for at in range(len(token) - 1))
