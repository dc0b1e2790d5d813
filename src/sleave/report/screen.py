"""An audit on a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from sleave.auditing.results import Audit
from sleave.report.columns import Section, cards, named, sections

ROWS = 10  # of each list; the files have more


def screen_tables(audit: Audit) -> list[Table]:
    """The summary, then the head of each list that is not empty."""
    return [_summary(audit), *(_listed(section) for section in sections(audit) if section.findings)]


def _summary(audit: Audit) -> Table:
    table = Table(title=escape(f"Audit of {audit.about.get('autoencoder', 'an autoencoder')}"), show_header=False)
    for name, figure, says in cards(audit):
        table.add_row(name, figure, says)
    table.columns[1].justify = "right"
    return table


def _listed(section: Section) -> Table:
    shown = section.findings[:ROWS]
    of = "" if section.total is None else f" of {section.total:,}"
    table = Table(title=f"{section.title} ({len(shown)}{of})", caption=section.says, caption_justify="left")
    columns = [c for c in section.columns if c.on_screen]
    if section.features:
        table.add_column("features", overflow="fold")
    for column in columns:
        table.add_column(column.head, justify="left" if column.style is None else "right", overflow="fold")
    for finding in shown:
        features = [named(section.features(finding))] if section.features else []
        table.add_row(*features, *(column.text(finding) for column in columns))
    return table
