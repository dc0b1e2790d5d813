"""Where the metrics of every step go besides metrics.jsonl: one interface of two methods, off by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from sleave.base.errors import SleaveError
from sleave.training.run import RunDirectory


@runtime_checkable
class Logger(Protocol):
    """Something that takes the metrics of a step."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one step's metrics; `step` is among them."""

    def close(self) -> None:
        """No more will come."""


class TensorBoard:
    """Writes event files into the run directory."""

    def __init__(self, run: RunDirectory, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(self, record: Mapping[str, Any]) -> None:
        """Write every number of the step."""
        for name, value in record.items():
            self._writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()


class WeightsAndBiases:
    """Sends metrics to wandb; its own environment variables (WANDB_MODE, WANDB_PROJECT) say where."""

    def __init__(self, run: RunDirectory, step: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        name = run.path.resolve().name
        self._run = wandb.init(name=name, id=f"sleave-{name}", resume="allow", dir=str(run.path), config=run.config())

    def log(self, record: Mapping[str, Any]) -> None:
        """Send the step's metrics."""
        self._run.log(dict(record), step=int(record["step"]))

    def close(self) -> None:
        """Finish the wandb run."""
        self._run.finish()


TRACKERS: dict[str, Callable[[RunDirectory, int], Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def open_trackers(names: tuple[str, ...], run: RunDirectory, step: int) -> list[Logger]:
    """The trackers that the settings name.

    Raises:
        SleaveError: its package is not installed.
    """
    return [TRACKERS[name](run, step) for name in names]


def _missing(package: str) -> SleaveError:
    return SleaveError(
        f"training.trackers names `{package}`, which is not installed. Run: pip install 'sleave[{package}]', "
        "or leave the tracker out; metrics.jsonl is written in any case."
    )
