"""The things one does: harvest, train, evaluate, compare, audit. Command line and Python call the same functions."""

from sleave.jobs.auditing import AUDIT_ROWS, audit, own_recipe
from sleave.jobs.evaluation import evaluate
from sleave.jobs.runs import overlap, runs_in
from sleave.jobs.training import harvest, open_source, train

__all__ = ["AUDIT_ROWS", "audit", "evaluate", "harvest", "open_source", "overlap", "own_recipe", "runs_in", "train"]
