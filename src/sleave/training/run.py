"""A run directory: everything about one run, in files that are whole or absent.

config.toml               the resolved settings
environment.json          versions and machine
metrics.jsonl             one line per step
checkpoint.safetensors    where to go on
sae/                      the autoencoder of raw activations, in SAELens's format
scaling.safetensors       the map from raw activations to those it was trained on
pairs.safetensors         the pairs it pushed apart last: i, j, score
results.json              summary of the training, and the evaluation
audit.json                what is entangled, with texts, if `sleave evaluate --suite audit` was asked for it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import tomli_w

from sleave.activations.scaling import Scaling
from sleave.base.environment import environment
from sleave.base.errors import SleaveError
from sleave.base.files import (
    explained_disk_errors,
    load_tensors,
    read_json,
    read_toml,
    remove_leftovers,
    save_tensors,
    write_json,
    write_text,
)
from sleave.base.progress import say
from sleave.base.settings import differences
from sleave.dependence.pairs import Pairs

CONFIG = "config.toml"
AUDIT = "audit.json"
RESULTS_SCHEMA = 2  # src/sleave/evaluation/results.schema.json


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / CONFIG
        self.environment_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.results_file = self.path / "results.json"
        self.scaling_file = self.path / "scaling.safetensors"
        self.audit_file = self.path / AUDIT
        self.pairs_file = self.path / "pairs.safetensors"
        self.sae = self.path / "sae"

    @property
    def started(self) -> bool:
        return self.config_file.is_file()

    @property
    def finished(self) -> bool:
        """Whether training ended; its results are the last thing it writes."""
        return self.results_file.is_file() and "training" in self.results()

    @property
    def _trained(self) -> bool:
        return self.checkpoint_file.is_file() or self.results_file.is_file()

    def check(self, config: Mapping[str, Any]) -> None:
        """Make sure that a run with these settings may begin or go on here; changes nothing.

        Raises:
            SleaveError: the folder holds something else, or what was trained in it so far had other settings.
        """
        if not self.started and self._holds_something_else():
            raise SleaveError(f"`{self.path}` is not empty and not a run (no {CONFIG}). Choose another --out.")
        if self.started and self._trained and (lines := differences(*map(_of_training, (self.config(), config)))):
            raise SleaveError(
                f"`{self.path}` holds a run with other settings:\n" + "\n".join(lines) + "\n"
                "Choose another --out, delete that folder, or give its own settings to go on with it."
            )

    def begin(self, config: Mapping[str, Any]) -> None:
        """Make the directory ready, also over settings from which nothing was trained yet.

        Raises:
            SleaveError: see `check`; or the folder cannot be written.
        """
        self.check(config)
        if not self._trained:
            write_text(self.config_file, tomli_w.dumps(dict(config)))
        for folder in (self.path, self.sae):
            remove_leftovers(folder)
        if not self.environment_file.is_file():
            write_json(self.environment_file, environment())

    def _holds_something_else(self) -> bool:
        # A kill while config.toml was being written leaves its temporary file alone in the folder.
        return self.path.is_dir() and any(not p.name.startswith(f".{CONFIG}.") for p in self.path.iterdir())

    def config(self) -> dict[str, Any]:
        """The resolved settings.

        Raises:
            SleaveError: this is no run directory.
        """
        if not self.started:
            raise SleaveError(f"`{self.path}` is not a run directory: it has no config.toml. Make one: `sleave train`.")
        return read_toml(self.config_file)

    def results(self) -> dict[str, Any]:
        """What results.json holds so far; of an older schema, what the training left."""
        results = self._all_results()
        if results.get("schema") == RESULTS_SCHEMA:
            return results
        return {name: results[name] for name in ("environment", "training") if name in results}

    def _all_results(self) -> dict[str, Any]:
        results = read_json(self.results_file) if self.results_file.is_file() else {}
        if not isinstance(results, dict):
            raise SleaveError(f"`{self.results_file}` is no object of results; delete it and train again: it goes on.")
        return results

    def add_results(self, part: str, values: Mapping[str, Any]) -> None:
        """Add or replace one part of results.json; one of another schema is kept beside it."""
        before = self._all_results()
        if before and (schema := before.get("schema")) != RESULTS_SCHEMA:
            kept = self.path / f"results.v{schema}.json"
            write_json(kept, before)
            say(f"{self.results_file} is of version {schema}, this is {RESULTS_SCHEMA}. The old one is kept in {kept}.")
        head = {"schema": RESULTS_SCHEMA, "environment": environment()}
        write_json(self.results_file, {**head, **self.results(), part: dict(values)})

    def save_scaling(self, scaling: Scaling) -> None:
        """Keep the map from raw activations to those trained on."""
        save_tensors(self.scaling_file, {"shift": scaling.shift, "scale": scaling.scale})

    def scaling(self) -> Scaling:
        """The map from raw activations to those trained on."""
        tensors, _ = load_tensors(self.scaling_file)
        return Scaling(tensors["shift"], tensors["scale"])

    def save_pairs(self, pairs: Pairs) -> None:
        """Keep the pairs that were pushed apart last."""
        save_tensors(self.pairs_file, {"i": pairs.i, "j": pairs.j, "score": pairs.score})

    def pairs(self) -> Pairs:
        """The pairs that were pushed apart last.

        Raises:
            SleaveError: the run chose none.
        """
        if not self.pairs_file.is_file():
            raise SleaveError(
                f"`{self.path}` has no {self.pairs_file.name}: it is not finished, or its constraint chooses no pairs."
            )
        tensors, _ = load_tensors(self.pairs_file)
        return Pairs.of(tensors["i"], tensors["j"], tensors["score"])

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics of every step; a last line cut short by a kill is left out."""
        if self.metrics_file.is_file():
            with self.metrics_file.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.endswith("\n"):
                        yield json.loads(line)

    def open_metrics(self, step: int) -> MetricsLog:
        """Go on with metrics.jsonl after `step` updates; later lines are of a run that was killed, and dropped."""
        kept = "".join(json.dumps(m) + "\n" for m in self.metrics() if m["step"] <= step)
        write_text(self.metrics_file, kept)
        return MetricsLog(self.metrics_file)


def _of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what is trained; what is measured afterwards, or computed where, may be something else each time."""
    kept = {name: value for name, value in config.items() if name != "evaluation"}
    kept["training"] = {name: value for name, value in config.get("training", {}).items() if name != "shards"}
    return kept


class MetricsLog:
    """Appends one JSON line per step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            SleaveError: the disk is full.
        """
        with explained_disk_errors(self._path):
            self._file.write(json.dumps(dict(record), allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # only what `log` failed to write is left to flush, and it has said so
            self._file.close()
