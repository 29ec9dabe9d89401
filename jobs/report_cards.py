"""One row on the contact sheet of a report: its picture and all that the models said of it."""

from collections.abc import Mapping
from html import escape
from typing import Any

from jobs.report import Shown
from jobs.report_bars import TONES, bar
from jobs.roles import AGREEMENT, Roles
from operators.claims import LABELS
from operators.masking import shown as shown_uri
from schemas.enriched import ERROR, IMAGE_ID, URI
from schemas.errors import RowFault

MOST_TAGS = 12
MOST_QUESTIONS = 6  # of a list of hypotheses
LONGEST = 400  # characters of a text that are shown


def card(shown: Shown, roles: Roles) -> str:
    """Draws a row; what it has not is left out."""
    row = shown.row
    parts = [
        _error(row),
        *(_caption(row, name) for name in roles.captions),
        *(_verdict(row, name) for name in roles.verdicts),
        _numbers(row, roles),
        *(_label(row, name, roles) for name in _names(roles, "entailment")),
        *(_hypotheses(row, name) for name in _names(roles, "hypotheses")),
        *(_tags(row, name) for name in roles.tags),
        f'<p class="id mono" title="{escape(shown_uri(str(row.get(URI))))}">'
        f"{escape(str(row[IMAGE_ID]))}</p>",
    ]
    return (
        f'<li class="box card"><div class="picture">{_picture(shown, roles)}</div>'
        f'<div class="told">{"".join(parts)}</div></li>'
    )


def _picture(shown: Shown, roles: Roles) -> str:
    if isinstance(shown.picture, RowFault):
        return f"<p>No picture: {_cut(shown.picture.message)}</p>"
    said = next((shown.row[name] for name in roles.captions if shown.row.get(name)), None)
    told = f"Picture {shown.row[IMAGE_ID]}" + (f", captioned: {said}" if said else "")
    return f'<img src="{shown.picture}" alt="{_cut(told)}">'


def _error(row: Mapping[str, Any]) -> str:
    error = row.get(ERROR)
    if not error:
        return ""
    again = "may pass" if error["transient"] else "settled"
    return (
        f'<p class="fault">{escape(error["code"])} <span class="quiet">at {escape(error["stage"])}'
        f', {again}</span></p><p class="message">{_cut(error["message"])}</p>'
    )


def _caption(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return ""
    told = f'<p class="caption">{_cut(row[name])}</p>'
    others = [one["text"] for one in row.get(f"{name}_alternatives") or ()][1:]
    if not others:
        return told
    entries = "".join(f"<li>{_cut(text)}</li>" for text in others)
    heading = f"{len(others)} other sentence{'s' if len(others) > 1 else ''}"
    return f"{told}<details><summary>{heading}</summary><ol>{entries}</ol></details>"


def _verdict(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return ""
    reason = row.get(f"{name}_reason")
    said = f' <span class="quiet">{_cut(reason)}</span>' if reason else ""
    return f'<p class="message">{_badge(row[name])}{said}</p>'


def _numbers(row: Mapping[str, Any], roles: Roles) -> str:
    """Probabilities of which there is one a row."""
    scores = [AGREEMENT] if roles.agreement else []
    scores += _names(roles, "matcher")
    rows = "".join(_bar(name, row[name]) for name in scores if row.get(name) is not None)
    return f'<div class="bars">{rows}</div>' if rows else ""


def _label(row: Mapping[str, Any], name: str, roles: Roles) -> str:
    if row.get(name) is None:
        return ""
    text = roles.texts.get(name)
    about = "" if text is None or text in roles.captions else _cut(row.get(text) or "")
    bars = "".join(_bar(label, row[f"{name}_{label}"] or 0.0, label) for label in LABELS)
    return (
        f'<div class="question"><p>{_cut(name)} {_badge(row[name])} {about}</p>'
        f'<div class="bars">{bars}</div></div>'
    )


def _hypotheses(row: Mapping[str, Any], name: str) -> str:
    entries = row.get(name) or ()
    rows = "".join(
        f'<div class="question"><p>{_badge(one["label"])} {_cut(one["text"])}</p>'
        f'<div class="bars">{_bar(label, one[label] or 0.0, label)}</div></div>'
        for one in entries[:MOST_QUESTIONS]
        if (label := one["label"]) in LABELS
    )
    left = len(entries) - MOST_QUESTIONS
    return rows + (f'<p class="quiet">and {left} more</p>' if left > 0 else "")


def _tags(row: Mapping[str, Any], name: str) -> str:
    entries = row.get(name) or ()
    chips = "".join(
        f'<li title="{one["yes"] or 0:.0%}">{_cut(one["label"])}</li>'
        for one in entries[:MOST_TAGS]
    )
    return f'<ul class="chips" aria-label="{escape(name)}">{chips}</ul>' if chips else ""


def _bar(name: str, value: float, tone: str = "") -> str:
    return (
        f'<span class="of">{escape(name)}</span>{bar(value, tone)}'
        f'<span class="value">{value:.0%}</span>'
    )


def _badge(label: str) -> str:
    return f'<span class="badge {TONES.get(label, "")}">{escape(label)}</span>'


def _names(roles: Roles, kind: str) -> list[str]:
    return [one.column for one in roles.of_kind(kind)]


def _cut(text: Any) -> str:
    """Escapes a text, and cuts one that is no sentence any more."""
    told = str(text)
    return escape(told if len(told) <= LONGEST else told[:LONGEST] + "…")
