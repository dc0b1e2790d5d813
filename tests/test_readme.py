"""What the README says runs, runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import sleave
from sleave.base.files import read_json
from sleave.recipe import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_penalty_in_a_training_loop():
    """That snippet, with an autoencoder and batches of the reader's."""
    sae = sleave.ReLUAutoencoder(6, 40)
    for p in sae.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    batches = [torch.randn(50, 6, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    names = {"sae": sae, "batches": batches}
    exec(next(s for s in snippets() if "any autoencoder's" in s).replace("    ...\n", ""), names)
    penalty, acts = names["penalty"], names["acts"]
    assert len(penalty.pairs) == 78  # 10% of 780 pairs
    with_penalty = sae.W_enc.grad.clone()
    sae.zero_grad()
    for x in batches:
        f = sae.encode(x)
        (((sae.decode(f) - x) ** 2).sum(-1).mean() + 0.04 * f.sum(-1).mean()).backward()
    assert not torch.allclose(with_penalty, sae.W_enc.grad)
    assert acts.shape == (50, 40)


def test_the_estimator_on_a_matrix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"sleave": sleave, "X": np.random.default_rng(0).normal(size=(200, 12))}
    exec(next(s for s in snippets() if "SparseAutoencoderEstimator" in s), names)
    assert (names["acts"].shape, names["X_hat"].shape) == ((200, 64), (200, 12))
    assert read_json(tmp_path / "sae" / "cfg.json")["d_sae"] == 64


def test_python_names_in_the_readme_are_public():
    used = set(re.findall(r"sleave\.([A-Za-z_]+)\(", README))
    assert used
    assert used <= set(sleave._HOME)


def test_files_that_the_readme_names_are_there():
    named = set(re.findall(r"`?((?:recipes|docs|benchmarks|src)/[\w/.-]+)(?![\w/.$*-])", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_papers_recipe_is_the_papers():
    """Selective orthogonality, sections 4.2, 5.1 and 5.2."""
    r = load_recipe(ROOT / "recipes/papers/selective_orthogonality.toml")
    assert (r.model.name, r.model.layers) == ("google/gemma-2-2b", (5, 12, 19))
    assert [(c.kind, c.name) for c in r.corpus] == [("hub", "fancyzhx/ag_news")]
    assert (r.buffer.batch_contexts, r.harvest.context_length) == (32, 128)
    assert (r.buffer.buffer_contexts, r.buffer.refresh_batches) == (2048, 24)
    assert (r.autoencoder.kind, r.autoencoder.d_sae) == ("relu", 2304)
    assert (r.sparsity.weight, r.constraint.kind, r.constraint.weight) == (0.04, "selective", 0.1)
    assert (r.constraint.top, r.constraint.refresh, r.constraint.window, r.constraint.measure) == (
        0.001,
        1,
        1,
        "cosine",
    )
    assert (r.optimizer.kind, r.optimizer.lr, r.optimizer.betas) == ("adam", 3e-4, (0.9, 0.999))
    assert (r.training.steps, r.training.precision, r.training.gradient_checkpointing) == (1000, "float16", True)
    assert (r.harvest.store, r.layer) == (None, None)  # live, every layer


def test_the_quickstart_is_the_demo():
    r = load_recipe(ROOT / "recipes/quickstart.toml")
    assert (r.model.name, r.model.layers) == ("packaged:gemma3-270m", (8,))
    assert r.harvest.max_tokens >= 280_000
    assert r.autoencoder.d_sae >= 2560


@pytest.mark.parametrize("verb", ["harvest", "train", "evaluate"])
def test_the_commands_options_exist(verb, capsys):
    from sleave.cli import main

    with pytest.raises(SystemExit):
        main([verb, str(ROOT / "recipes/quickstart.toml"), "--help"])
    described = capsys.readouterr().out
    lines = [line for line in README.replace("\\\n", " ").splitlines() if re.match(rf"\s+sleave {verb}\s", line)]
    assert lines
    for option in re.findall(r"(--[\w.]+)", " ".join(lines)):
        assert option in described, option
