"""An audit as one HTML page that needs nothing else: no request leaves it, and a copy of the file is the whole."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from sleave.auditing.results import Audit
from sleave.report.columns import Column, Section, cards, sections
from sleave.report.svg import histogram_svg

HERE = Path(__file__).parent


def page(audit: Audit) -> str:
    """The page: summary, histograms, and every list; a click on a pair opens the texts of both its features."""
    name = escape(audit.about.get("autoencoder", "an autoencoder"))
    listed = sections(audit)
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in listed)
    about = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in audit.about.items() if v)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of {name}</title>\n<style>\n{_own('page.css')}</style></head>\n<body>\n"
        f"<header><h1>Audit of {name}</h1><dl>{about}</dl></header>\n"
        f"<main>\n{_cards(audit)}\n{_histograms(audit)}\n{_lists(audit)}\n<nav>{links}</nav>\n"
        + "\n".join(_section(section, bool(audit.contexts)) for section in listed)
        + f"\n</main>\n{_footer()}\n"
        + f'<script type="application/json" id="contexts">{_data(audit)}</script>\n'
        + f"<script>\n{_own('page.js')}</script>\n</body></html>\n"
    )


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _data(audit: Audit) -> str:
    """The contexts as JSON; without `<`, no text in it can end the script or begin a comment."""
    text = json.dumps(audit.to_dict()["contexts"], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _cards(audit: Audit) -> str:
    parts = [
        f"<div><b>{escape(figure)}</b><span>{escape(name)}</span><small>{escape(says)}</small></div>"
        for name, figure, says in cards(audit)
    ]
    return f'<section class="cards">{"".join(parts)}</section>'


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
    return f'<section class="histograms">{"".join(parts)}</section>'


def _section(section: Section, with_contexts: bool) -> str:
    shown = f"{len(section.findings):,}"
    count = shown if section.total in (None, len(section.findings)) else f"{shown} of {section.total:,}"
    head = (
        f'<section id="{section.name}"><h2>{escape(section.title)} <small>{count}</small></h2>'
        f"<p>{escape(section.says)}</p>"
    )
    if not section.findings:
        return f'{head}<p class="none">None.</p></section>'
    names = "<th>pair</th>" if section.features else ""
    names += "".join(f'<th title="{escape(c.says)}"><button>{escape(c.head)}</button></th>' for c in section.columns)
    rows = "".join(_row(section, finding, with_contexts) for finding in section.findings)
    return (
        f'{head}<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _row(section: Section, finding: Any, with_contexts: bool) -> str:
    first = ""
    if section.features:
        i, j = section.features(finding)
        both = f'<span class="a">{i}</span> <span class="b">{j}</span>'
        if with_contexts:
            both = f'<button class="pair" data-a="{i}" data-b="{j}" aria-expanded="false">{both}</button>'
        first = f"<th>{both}</th>"
    return f"<tr>{first}{''.join(_cell(column, finding) for column in section.columns)}</tr>"


def _cell(column: Column[Any], finding: Any) -> str:
    text = escape(column.text(finding))
    return f"<td>{text}</td>" if column.style is None else f'<td data-value="{column.value(finding)!r}">{text}</td>'


def _footer() -> str:
    return (
        "<footer><p>All figures are exact over the audited rows. Click a pair to read the texts that its features fire "
        'most on, one token in each of several documents: the <span class="a">first</span> feature colours the upper '
        'half of a token, the <span class="b">second</span> the lower half. Click a column to sort by it. Hover over '
        "a column's name to see what it is.</p><p>Made by sleave.</p></footer>"
    )
