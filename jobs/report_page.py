"""The page of a report: HTML without a script. All that comes from the table is escaped."""

from collections.abc import Iterable, Mapping
from html import escape

from jobs.report import Report
from jobs.report_bars import TONES, bar
from jobs.report_cards import card
from jobs.report_style import STYLE
from jobs.survey import BINS, Histogram, Survey, top

TOP_LABELS = 12  # bars of a column of labels
TOP_ENTRIES = 24  # columns and entries of lists that get bars
HEIGHT, WIDTH, FOOT = 92, 260, 18  # of a histogram, in pixels
SHEETS = {
    "best": "Best",
    "worst": "Worst",
    "disagreeing": "Disagreeing",
    "failed": "Failed",
}


def page(report: Report) -> str:
    """Makes the whole page."""
    sections = {
        "errors": ("Errors", _errors(report.survey)),
        "work": ("Work", _work(report)),
        "scores": ("Scores", _scores(report.survey)),
        "labels": ("Labels", _labels(report.survey)),
        "rows": ("Rows to look at", _sheets(report)),
    }
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{told}</section>'
        for name, (title, told) in sections.items()
    )
    title = escape(report.table.rstrip("/").rpartition("/")[2] or report.table)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · tagline report</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{title}</h1>{_lead(report)}</header>"
        f'<nav aria-label="Sections">{links}</nav><main>{_tiles(report)}{body}</main>'
        f"<footer>Written by tagline in {report.seconds:.1f} s.</footer></body></html>\n"
    )


def _lead(report: Report) -> str:
    found = report.survey
    when = ""
    if found.since and found.until:
        since, until = f"{found.since:%Y-%m-%d %H:%M}", f"{found.until:%Y-%m-%d %H:%M}"
        when = f", computed {since}" + (f" to {until}" if since != until else "") + " UTC"
    return (
        f'<p class="lead">Version {report.version:,}{when}</p>'
        f'<p class="id mono">{escape(report.table)}</p>'
    )


def _tiles(report: Report) -> str:
    found, effort = report.survey, report.effort
    failed = found.errors.total()
    hours = effort.seconds / 3600
    busy = f"{hours:,.1f} h" if hours >= 1 else f"{effort.seconds:,.0f} s"
    is_known = bool(effort.seconds)
    cost = "unknown" if effort.cost is None else f"{effort.cost:,.2f}"
    why = "give --cost-per-hour" if effort.cost is None else "of the time actors were busy"
    tiles = [
        ("Rows", f"{found.rows:,}", "each image once"),
        ("Healthy", f"{found.healthy:,}", _percent(found.healthy, found.rows)),
        ("Failed", f"{failed:,}", _percent(failed, found.rows)),
        *_verdict_tiles(report),
        ("Actors busy", busy if is_known else "unknown", "all stages together"),
        ("Cost", cost, why),
    ]
    told = "".join(
        f'<div class="box tile"><p class="name">{escape(name)}</p><p class="figure">{figure}</p>'
        f'<p class="more">{more}</p></div>'
        for name, figure, more in tiles
    )
    return f'<div class="tiles">{told}</div>'


def _verdict_tiles(report: Report) -> Iterable[tuple[str, str, str]]:
    for name in report.roles.verdicts:
        counts: Mapping[str, int] = report.survey.labels.get(name, {})
        accepted = counts.get("accepted", 0)
        yield f"Accepted ({name})", f"{accepted:,}", _percent(accepted, sum(counts.values()))


def _errors(found: Survey) -> str:
    if not found.errors:
        return '<p class="quiet">No row has an error.</p>'
    most = max(found.errors.values())
    rows = "".join(
        f'<tr><td class="fault">{escape(code)}</td><td>{escape(stage)}</td>'
        f'<td class="number">{count:,}</td><td class="number">{_percent(count, found.rows)}</td>'
        f'<td class="share">{bar(count / most, "no")}</td></tr>'
        for (stage, code), count in sorted(found.errors.items(), key=lambda one: -one[1])
    )
    return (
        '<div class="box wide"><table><thead><tr><th scope="col">Code</th><th scope="col">Stage'
        '</th><th scope="col" class="number">Rows</th><th scope="col" class="number">Of all</th>'
        f'<td class="share"></td></tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _work(report: Report) -> str:
    effort, rows = report.effort, report.survey.rows
    if not effort.stages:
        return '<p class="quiet">The table’s files do not say how they came about.</p>'
    body = ""
    for stage in effort.stages:
        share = (stage.seconds or 0.0) / effort.seconds if effort.seconds else 0.0
        rate = "" if stage.rate is None else f"{stage.rate:,.1f}"
        told = "" if stage.seconds is None else f"{stage.seconds:,.1f} s"
        taken = f"{stage.rows:,}" if stage.rows else ""
        body += (
            f'<tr><td>{escape(stage.name)}</td><td class="number">{taken}</td><td class="number">'
            f'{rate}</td><td class="number">{told}</td><td class="share">{bar(share)}</td></tr>'
        )
    note = "Of the runs that wrote the table’s present files."
    if effort.covered < rows:
        note += (
            f" {rows - effort.covered:,} of {rows:,} rows lie in files that do not say how they "
            "came about, such as compacted ones."
        )
    return (
        f'<p class="lead">{note}</p><div class="box wide"><table><thead><tr>'
        '<th scope="col">Stage</th>'
        '<th scope="col" class="number">Rows</th><th scope="col" class="number">Rows/s an actor'
        '</th><th scope="col" class="number">Busy</th><th scope="col" class="share">'
        "Share of the busy time</th>"
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _scores(found: Survey) -> str:
    told = "".join(_histogram(name, one) for name, one in found.scores.items() if one.count)
    if not told:
        return '<p class="quiet">The table has no scores.</p>'
    return (
        '<p class="lead">How many rows have a value from 0 to 1. The score of a caption is shown '
        f'as the mean probability of its tokens.</p><div class="figures">{told}</div>'
    )


def _histogram(name: str, values: Histogram) -> str:
    most = int(values.counts.max())
    step = WIDTH / BINS
    columns = "".join(
        f'<rect x="{n * step + 1:.1f}" y="{HEIGHT - tall:.1f}" width="{step - 2:.1f}" '
        f'height="{tall:.1f}" rx="1.5"><title>{n / BINS:.2f} to {(n + 1) / BINS:.2f}: {count:,}'
        "</title></rect>"
        for n, count in enumerate(values.counts.tolist())
        for tall in [max(count / most * (HEIGHT - 4), 1.5 if count else 0)]
    )
    label = f"{name}: {values.count:,} values, mean {values.mean:.2f}"
    return (
        f'<figure class="box"><figcaption>{escape(name)}<span>mean {values.mean:.2f}</span>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT + FOOT}" role="img" '
        f'aria-label="{escape(label)}"><line x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
        f'{columns}<text x="0" y="{HEIGHT + 14}">0</text><text x="{WIDTH / 2}" y="{HEIGHT + 14}" '
        f'text-anchor="middle">0.5</text><text x="{WIDTH}" y="{HEIGHT + 14}" '
        'text-anchor="end">1</text></svg></figure>'
    )


def _labels(found: Survey) -> str:
    shown = {name: counts for name, counts in found.labels.items() if counts}
    told = "".join(_counts(name, counts) for name, counts in list(shown.items())[:TOP_ENTRIES])
    if not told:
        return '<p class="quiet">The table has no labels.</p>'
    left = len(shown) - TOP_ENTRIES
    note = f'<p class="lead">{left:,} more are not shown.</p>' if left > 0 else ""
    return f'<div class="figures">{told}</div>{note}'


def _counts(name: str, counts: Mapping[str, int]) -> str:
    total, most = sum(counts.values()), max(counts.values())
    rows = "".join(
        f'<span class="of">{escape(label)}</span>{bar(count / most, TONES.get(label, ""))}'
        f'<span class="value">{count:,} · {_percent(count, total)}</span>'
        for label, count in top(counts, TOP_LABELS)
    )
    left = len(counts) - TOP_LABELS
    more = f'<span class="value">and {left:,} others</span>' if left > 0 else ""
    return (
        f'<figure class="box"><figcaption>{escape(name)}<span>{total:,}</span></figcaption>'
        f'<div class="bars">{rows}</div>{more}</figure>'
    )


def _sheets(report: Report) -> str:
    by = report.roles.quality_name
    hints = {
        "best": f"By {by}." if by else "",
        "worst": f"By {by}." if by else "",
        "disagreeing": "Another model denies the caption.",
        "failed": "Some of each kind of error.",
    }
    told = ""
    for kind, title in SHEETS.items():
        if rows := report.sheet.get(kind):
            cards = "".join(card(one, report.roles) for one in rows)
            told += (
                f'<h3 id="{kind}">{title}</h3><p class="quiet">{escape(hints[kind])}</p>'
                f'<ul class="sheet">{cards}</ul>'
            )
    return told or '<p class="quiet">There is nothing to show.</p>'


def _percent(count: int, total: int) -> str:
    if not total:
        return "–"
    share = count / total
    return f"{share:.2%}" if 0 < share < 0.01 or 0.99 < share < 1 else f"{share:.1%}"
