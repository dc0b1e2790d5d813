"""The things one does: harvest, train, evaluate, compare, audit, report; the command line and Python call the same."""

from sleave.jobs.auditing import AUDIT_ROWS, audit, own_recipe
from sleave.jobs.evaluation import evaluate
from sleave.jobs.reporting import report
from sleave.jobs.runs import overlap, runs_in
from sleave.jobs.training import harvest, open_source, train

__all__ = [
    "AUDIT_ROWS",
    "audit",
    "evaluate",
    "harvest",
    "open_source",
    "overlap",
    "own_recipe",
    "report",
    "runs_in",
    "train",
]
