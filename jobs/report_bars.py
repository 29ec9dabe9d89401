"""Bars of a report: a share of 1 in the colour of what it is a share of."""

TONES = {
    **dict.fromkeys(("yes", "accepted"), "yes"),
    **dict.fromkeys(("no", "rejected"), "no"),
    **dict.fromkeys(("maybe", "review"), "maybe"),
}


def bar(share: float, tone: str = "") -> str:
    """Draws a share; the number stands beside it, so it is hidden from screen readers."""
    width = min(max(share, 0.0), 1.0) * 100
    return (
        f'<div class="bar" aria-hidden="true"><i class="{tone}" style="width:{width:.1f}%"></i>'
        "</div>"
    )
