"""Run directories made by hand, as `sleave report` reads them, and an audit whose tokens are hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w
import torch
from planted import activations, trained, with_copies

from sleave.activations.rows import Origin, Rows
from sleave.auditing.audit import audit_rows
from sleave.auditing.results import Audit

HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=2>",
    "<!--",
    "\u2028",
    "&amp;",
    "\"'",
    "<svg onload=window.hacked=3>",
    "\n",
    "]]>",
    "ü",
]


def make_audit(rows: int = 2000, pairs: int = 8, seed: int = 0) -> Audit:
    """Of an autoencoder with 20 copies planted in it, on text of hostile tokens."""
    x = activations(rows, seed=seed)
    sae = with_copies(trained("topk"), torch.arange(20), cosine=0.95)
    place = torch.arange(rows)
    origin = Origin(place % 10, place // 40, place % 40)
    return audit_rows(sae, Rows.of(x, origin), pairs=pairs, token_texts=lambda ids: [HOSTILE[i] for i in ids])


def make_run(
    path: Path, audit: Audit | None = None, results: dict[str, Any] | None = None, steps: int = 50, **config: Any
) -> Path:
    """A finished run; `results` is laid over its results.json, `config` over its config.toml."""
    path.mkdir(parents=True)
    values = {
        "seed": 0,
        "layer": 8,
        "model": {"name": "toy"},
        "autoencoder": {"kind": "relu", "d_sae": 116},
        "sparsity": {"weight": 0.04},
        "constraint": {"kind": "none"},
        "training": {"steps": steps},
    }
    (path / "config.toml").write_text(tomli_w.dumps(values | config), encoding="utf-8")
    lines = [{"step": n, "fvu": 1 / n, "l0": 40 + n % 7, "loss": 100 / n, "dead": n // 20} for n in range(1, steps + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    measured = {
        "schema": 2,
        "training": {"steps": steps, "architecture": "relu", "constraint": "none"},
        "heldout": heldout(),
    }
    (path / "results.json").write_text(json.dumps(measured | (results or {})), encoding="utf-8")
    if audit is not None:
        (path / "audit.json").write_text(json.dumps(audit.to_dict()), encoding="utf-8")
    return path


def heldout(l0: float = 40.0, fvu: float = 0.3, r: float = 0.4) -> dict[str, Any]:
    """Some of what the family of that name measures."""
    return {
        "rows": 4096,
        "scaled": {"fvu": fvu, "mse": 1.0},
        "codes": {"l0": l0, "l1": 2 * l0, "active": 110, "dead": 6, "dense": 1},
        "correlation": {"p999_pearson": r},
    }


def unlearning(**changes: Any) -> dict[str, Any]:
    """One topic, forgotten."""
    topic = {
        "topic": "sport",
        "status": "ok",
        "headline": {"status": "ok", "score": 0.6, "interval": [0.5, 0.7], "test": {"ce_rise": 0.09}, "violations": []},
        "published_form": {"status": "ok", "score": 0.9, "test": {"ce_rise": 0.8}},
        "curve": [[0.01, 0.1], [0.05, 0.4], [0.1, 0.6], [0.8, 0.9]],
        "controls": {
            "random features 0": {"status": "ok", "score": 0.02, "test": {"ce_rise": 0.01}},
            "random features 1": {"status": "ok", "score": 0.03, "test": {"ce_rise": 0.02}},
            "random dictionary": {"status": "infeasible", "score": None},
            "topic direction": {"status": "ok", "score": 0.45, "test": {"ce_rise": 0.03}},
        },
        "refitted": 0.93,
        "refitted_clean": 0.97,
    }
    return {"status": "ok", "headline": 0.6, "topics": [topic | changes], "settings": {"unlearning": {"ce_rise": 0.1}}}
