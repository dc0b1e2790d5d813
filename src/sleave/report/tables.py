"""Tables that can be sorted and filtered, whose pairs open the texts of their features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from sleave.auditing.results import MEMBERS, Audit, Context
from sleave.report.columns import Column, Section, named
from sleave.report.html import none, section, wide

FEW = 8  # rows, up to which there is nothing to filter


def listed(part: Section, with_texts: bool) -> str:
    """A list of findings as a section of the page."""
    shown = f"{len(part.findings):,}"
    count = shown if part.total in (None, len(part.findings)) else f"{shown} of {part.total:,}"
    content = _table(part, with_texts) if part.findings else none("None.")
    return section(part.name, part.title, part.says, content, count)


def _table(part: Section, with_texts: bool) -> str:
    first = '<th scope="col">features</th>' if part.features else ""
    heads = "".join(head(c.head, c.says, c.style is None) for c in part.columns)
    rows = "".join(_row(part, finding, with_texts) for finding in part.findings)
    table = wide(
        part.title,
        f'<table id="{part.name}-rows"><caption class="unseen">{escape(part.title)}</caption>'
        f"<thead><tr>{first}{heads}</tr></thead><tbody>{rows}</tbody></table>",
    )
    hint = "a number, or a word in the texts" if with_texts and part.features else "a number or a word"
    field = filter_field(part.name, len(part.findings), hint) if len(part.findings) > FEW else ""
    return field + table + _meanings(part.columns)


def head(name: str, says: str, of_text: bool = False) -> str:
    """The head of a column by which one can sort; numbers are at the right, text is at the left."""
    side = ' class="text"' if of_text else ""
    return (
        f'<th scope="col"{side} title="{escape(says)}"><button type="button" class="sort">{escape(name)}</button></th>'
    )


def filter_field(name: str, rows: int, hint: str) -> str:
    """A field that filters the rows of the table `name`-rows, and says how many are left."""
    return (
        f'<p class="filter"><label for="{name}-filter">Filter</label> '
        f'<input type="search" id="{name}-filter" data-rows="{name}-rows" placeholder="{escape(hint)}" '
        f'autocomplete="off"> <output for="{name}-filter" aria-live="polite">{rows:,} rows</output></p>'
    )


def _meanings(columns: Sequence[Column[Any]]) -> str:
    items = "".join(f"<div><dt>{escape(c.head)}</dt><dd>{escape(c.says)}</dd></div>" for c in columns)
    return f'<details class="meanings"><summary>What the columns say</summary><dl>{items}</dl></details>'


def _row(part: Section, finding: Any, with_texts: bool) -> str:
    run = part.run(finding)
    cells = "".join(_cell(column, finding) for column in part.columns)
    return f'<tr data-of="{run}">{_features(part, finding, run) if with_texts else _plain(part, finding)}{cells}</tr>'


def _plain(part: Section, finding: Any) -> str:
    return f'<th scope="row">{_coloured(part.features(finding))}</th>' if part.features else ""


def _features(part: Section, finding: Any, run: int) -> str:
    if part.features is None:
        return ""
    features = part.features(finding)[:MEMBERS]
    numbers = " ".join(map(str, features))
    return (
        f'<th scope="row"><button type="button" class="pair" data-run="{run}" data-features="{numbers}" '
        f'aria-expanded="false"><span class="unseen">Texts of </span>{_coloured(part.features(finding))}</button></th>'
    )


def _coloured(features: Sequence[int]) -> str:
    """The first two in their colours, and the rest."""
    first, *others = named(features).split(", ")
    second, *more = others or [""]
    rest = f" {', '.join(more)}" if more else ""
    return f'<span class="two"><span class="a">{first}</span> <span class="b">{second}</span></span>{rest}'


def _cell(column: Column[Any], finding: Any) -> str:
    text = escape(column.text(finding))
    return (
        f'<td class="text">{text}</td>'
        if column.style is None
        else f'<td data-value="{column.value(finding)!r}">{text}</td>'
    )


def linked(part: Section) -> Iterator[tuple[int, int]]:
    """Which two features are shown beside each other: the first of each finding and every other one."""
    if part.features:
        for finding in part.findings:
            first, *others = part.features(finding)[:MEMBERS]
            yield from ((first, other) for other in others)


def texts(audit: Audit, links: Iterable[tuple[int, int]]) -> dict[str, list[dict[str, Any]]]:
    """For the script: the contexts of features, with the codes of those that they are shown beside."""
    beside: dict[int, set[int]] = {}
    for i, j in links:
        beside.setdefault(i, {i}).add(j)
        beside.setdefault(j, {j}).add(i)
    return {
        str(feature): [_context(context, others) for context in audit.contexts.get(feature, ())]
        for feature, others in sorted(beside.items())
    }


def _context(context: Context, features: Iterable[int]) -> dict[str, Any]:
    gaps = [n for n, (p, q) in enumerate(zip(context.positions, context.positions[1:], strict=False), 1) if q != p + 1]
    return {
        "tokens": list(context.tokens),
        "peak": context.peak,
        "gaps": gaps,
        "codes": {str(f): [_short(code) for code in context.codes[f]] for f in sorted(features)},
    }


def _short(code: float) -> float:
    """Three significant digits, and no digit at all after a zero."""
    return float(f"{code:.3g}") if code else 0
