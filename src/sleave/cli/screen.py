"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sleave.base.progress import say
from sleave.evaluation.compare import Comparison
from sleave.evaluation.methods import Results
from sleave.evaluation.table import figure_tables, notes, screen_comparison, short_names, warnings


def print_side_by_side(results: Results, compared: Sequence[Comparison]) -> None:
    """Runs beside each other, each less its baseline, and what to know about that."""
    for table in figure_tables(results, Console().width):
        print_table(table)
    names = short_names(list(results))
    if any(c.differences for c in compared):
        print_table(screen_comparison(compared, names))
    else:
        for note in notes(compared, names):
            say(note)
    for warning in warnings(results):
        say(warning)


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal."""
    console = Console()
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="", flush=True)  # not by rich, which ends the process when nobody reads on
