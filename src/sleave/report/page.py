"""An audit as one HTML page: summary, histograms, heat maps, and every list, with the texts that features fire on."""

from __future__ import annotations

from html import escape

from sleave.auditing.results import Audit
from sleave.report.columns import cards, sections
from sleave.report.heat import entangled, heat_figure
from sleave.report.html import document, links
from sleave.report.svg import histogram_svg
from sleave.report.tables import linked, listed, texts


def page(audit: Audit) -> str:
    """The page; a click on a pair or a cluster opens the texts of its features."""
    title = f"Audit of {audit.about.get('autoencoder', 'an autoencoder')}"
    about = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in audit.about.items() if v)
    parts = sections(audit)
    maps = [heat_figure(f"map-{m.name}", "Most entangled features", 0, m) for m in entangled(audit.strong)]
    body = (
        f"{_cards(audit)}\n{_histograms(audit)}\n{_lists(audit)}\n{links({p.name: p.title for p in parts})}\n"
        f'<section class="figures" aria-label="Heat maps">{"".join(figure for figure, _ in maps)}</section>\n'
        + "\n".join(listed(part, bool(audit.contexts)) for part in parts)
        + f"\n{READING}"
    )
    data = {"texts": [texts(audit, (pair for part in parts for pair in linked(part)))], "maps": [d for _, d in maps]}
    return document(title, f"<h1>{escape(title)}</h1><dl>{about}</dl>", body, data)


READING = (
    "<p>All figures are exact over the audited rows. A click on a row's features opens the texts that they fire most "
    'on, one token in each of several documents: the <span class="a">first</span> feature colours the upper half of a '
    'token, the <span class="b">second</span> the lower half; the token that a feature fires most on has a frame. A '
    "click on a column's name sorts by it.</p>"
)


def _cards(audit: Audit) -> str:
    parts = [
        f"<div><b>{escape(figure)}</b><span>{escape(name)}</span><small>{escape(says)}</small></div>"
        for name, figure, says in cards(audit)
    ]
    return f'<section class="cards" aria-label="Summary">{"".join(parts)}</section>'


def _lists(audit: Audit) -> str:
    """Features that are not to be read in pairs: numbers, folded away."""
    lists = (("Dead features", audit.dead), ("Dense features", audit.dense))
    return "".join(
        f"<details><summary>{name} <small>{len(features):,}</small></summary>"
        f"<p>{', '.join(map(str, features)) or 'None.'}</p></details>"
        for name, features in lists
    )


def _histograms(audit: Audit) -> str:
    def power(value: float) -> str:
        return f"{10**value:.2g}"

    def plain(value: float) -> str:
        return f"{value:.2g}"

    shapes = (
        ("firing_rate", "Firing rates", "share of rows on which a feature fires", (-5, -4, -3, -2, -1, 0), power),
        (
            "nearest",
            "Nearest neighbours",
            "largest decoder cosine with another feature",
            (0, 0.25, 0.5, 0.75, 1),
            plain,
        ),
        ("information", "Mutual information", "nats, of pairs that fire together", (-5, -4, -3, -2, -1, 0), power),
    )
    parts = []
    for name, title, axis, ticks, tick in shapes:
        histogram = audit.histograms[name]
        below = f"{histogram.below:,} below {tick(histogram.edges[0])}" if histogram.below else ""
        drawn = histogram_svg(histogram, title, axis, ticks, tick)
        parts.append(f"<figure><figcaption>{escape(title)} <small>{escape(below)}</small></figcaption>{drawn}</figure>")
    return f'<section class="figures" aria-label="Histograms">{"".join(parts)}</section>'
