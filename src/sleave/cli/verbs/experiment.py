"""`sleave experiment`."""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence

from rich.table import Column, Table

from sleave.base.errors import SleaveError
from sleave.base.progress import say
from sleave.cli.options import Parser
from sleave.cli.screen import print_side_by_side, print_table
from sleave.experiment.local import LocalEngine, jobs_at_once
from sleave.experiment.needs import Memory, devices, task_memory
from sleave.experiment.plan import plan, table
from sleave.experiment.ray import RayEngine
from sleave.experiment.run import Experiment, open_experiment, run_experiment
from sleave.experiment.state import last_step
from sleave.experiment.work import Engine, check_at_least_one
from sleave.recipe import Recipe

ENGINES = ("local", "ray")

EXPERIMENT = """\
Make a grid of runs from one file: methods x layers x seeds x any setting, on one harvest; then table and page.

  sleave experiment experiments/quickstart.toml --list        the runs, and how far each is
  sleave experiment experiments/quickstart.toml --dry-run     tokens, FLOPs, disk, memory and time: estimates
  sleave experiment experiments/quickstart.toml
  sleave experiment experiments/quickstart.toml --engine ray --ray-address auto

FILE names a recipe and what changes of it:

  title = "Is it worth it?"
  recipe = "../recipes/quickstart.toml"      # a path from this file
  seeds = [0, 1, 2]                          # layers = [3, 8, 13]; all that the recipe reads, if not given
  suites = ["heldout", "audit"]              # see sleave evaluate --help

  [methods.none.constraint]                  # what a method changes of the recipe
  kind = "none"
  [methods.selective]                        # nothing

  [[grid]]                                   # one or more; without any, every method with every seed
  [[grid]]
  methods = ["selective"]
  vary.constraint.weight = [0.05, 0.1, 0.2]  # any setting, and several in all combinations

DIR gets a run directory for each, METHOD/layer_NN/seed_N, what each printed (logs/), experiment.json (what is finished,
what failed and why), table.md, table.csv and report.html. A run that fails stops no other; it is reported at the end.
The same command goes on: finished runs are reused, unfinished ones go on from their checkpoints, failed ones are tried
again. Ctrl-C saves every run first. What cannot be measured here, for want of a package, does not keep a run from being
finished; the same command measures it once it can. A run's weights depend on how many threads it has, so give the same
--jobs again.

  --engine local   in processes of this machine, as many at once as its cores and its memory allow (never more than
                   fit beside all else that runs there), and on a GPU one: --jobs 2 if it has the memory for two
  --engine ray     as tasks of a Ray cluster (pip install 'sleave[ray]'). DIR, the activations and the model must be on
                   a file system that all its machines see at the same path; a run that can use a GPU asks for one
"""


def run(arguments: Sequence[str]) -> None:
    """`sleave experiment`."""
    parser = Parser("sleave experiment", description=EXPERIMENT, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="the experiment, a TOML file; see experiments/")
    parser.add_argument("--out", metavar="DIR", help="its folder (default: runs/NAME, after the file)")
    parser.add_argument("--engine", default="local", choices=ENGINES, help="where runs are made (now: %(default)s)")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once, at most (default: as many as there are cores and memory for; on a GPU, one)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="cores of each run (default: all, shared out)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="the cluster (default: RAY_ADDRESS, or a local one)")
    parser.add_argument("--list", action="store_true", help="only show the runs, and how far each is")
    parser.add_argument("--dry-run", action="store_true", help="only show what it will take: tokens, memory, time")
    namespace = parser.parse_args(arguments)
    opened = open_experiment(namespace.file, namespace.out)
    if namespace.list:
        print_table(_states(opened))
        return
    if namespace.dry_run:
        print_table(table(plan(opened.cells, opened.shape)))
        return
    done = run_experiment(opened, _engine(namespace, opened))
    if done.results:
        print_side_by_side(done.results, done.compared)
    for path in done.written:
        say(f"Wrote {path}")
    if done.failed:
        lines = [f"  {name}: {why} See {opened.log_of(name)}" for name, why in done.failed.items()]
        raise SleaveError(
            f"{len(done.failed)} of {len(opened.cells)} runs failed. The same command tries them again.\n"
            + "\n".join(lines)
        )


def _engine(namespace: Namespace, experiment: Experiment) -> Engine:
    def estimate(recipe: Recipe) -> Memory:
        return task_memory(recipe, experiment.suites, experiment.shape)

    jobs, threads = namespace.jobs, namespace.threads
    check_at_least_one({"--jobs": jobs, "--threads": threads})
    if namespace.engine == "ray":
        return RayEngine(estimate, namespace.ray_address, jobs, threads)
    if jobs is None:
        recipes = [cell.recipe for cell in experiment.cells]
        used = set().union(*(devices(recipe, experiment.suites) for recipe in recipes))
        jobs = jobs_at_once(max(estimate(recipe).own for recipe in recipes), used, threads)
    return LocalEngine(estimate, jobs, threads)


def _states(experiment: Experiment) -> Table:
    folded = [Column(name, overflow="fold") for name in ("run", "error")]
    table = Table(folded[0], "state", Column("seconds", justify="right"), folded[1])
    states = experiment.record().states
    for cell in experiment.cells:
        state, step = states[cell.name], last_step(experiment.run_of(cell.name))
        begun = state.status == "missing" and step
        status = f"step {step} of {cell.recipe.training.steps}" if begun else state.status
        table.add_row(cell.name, status, "" if state.seconds is None else f"{state.seconds:.0f}", state.error or "")
    return table
