"""Every architecture through the whole of training: each step, resuming to the bit, the saved file."""

import pytest
from peers import sae_lens
from toy_run import metrics, open_source, run_settings, weights, whole_state

from sleave.training.loop import train
from sleave.training.run import RunDirectory

STEPS = 20
KINDS = {
    "jumprelu": {"threshold": 0.1},
    "gated": {},
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "levels": (0.25, 0.5, 1.0)},
}


class Killed(BaseException):
    """Stands for a kill."""


def trained(path, settings, store, kill_at=None):
    run = RunDirectory(path)
    if not run.started:
        run.begin({"a": 1})
    source = open_source(store)
    if kill_at is not None:
        batches, whole = [], source.next_batch

        def next_batch(*share):
            batches.append(1)
            if len(batches) == kill_at:
                raise Killed
            return whole(*share)

        source.next_batch = next_batch
    train(settings, source, run)
    return run


@pytest.mark.parametrize("constraint", ["selective", "mi", "full", "temporal", "gradient", "information", "decoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_trains_and_resumes_to_the_bit(kind, constraint, store, tmp_path):
    settings = run_settings(
        autoencoder={"kind": kind, "d_sae": 12, "firing_rate": 0.2, **KINDS[kind]},
        constraint={"kind": constraint, **({} if constraint in ("full", "decoder") else {"top": 0.2})},
        training={"precision": "bfloat16", "steps": STEPS, "checkpoint_every": 7, "dead_after_tokens": 16},
    )
    unbroken = trained(tmp_path / "unbroken", settings, store)
    with pytest.raises(Killed):
        trained(tmp_path / "run", settings, store, kill_at=12)
    run = trained(tmp_path / "run", settings, store)
    assert weights(run.path) == weights(unbroken.path)
    assert whole_state(run.path) == whole_state(unbroken.path)
    record = metrics(run.path)[-1]
    terms = record["mse"] + record["sparsity"] + record.get("auxiliary", 0) + record["constraint"]
    assert record["loss"] == pytest.approx(terms, rel=1e-5)
    if "topk" in kind or kind == "matryoshka":
        assert record["sparsity"] == 0
        assert record["l0"] <= 3
    assert record["constraint"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_recomputation_change_little(kind, store, tmp_path):
    """A batch in two parts (batch top-k is then of each part), and codes computed again in the backward pass."""
    base = {"precision": "float32", "steps": 8, "dead_after_tokens": 16}
    losses = {}
    for name, more in {"whole": {}, "again": {"gradient_checkpointing": True}, "parts": {"accumulation": 2}}.items():
        settings = run_settings(
            autoencoder={"kind": kind, "d_sae": 12, "firing_rate": 0.2, **KINDS[kind]},
            constraint={"kind": "none"},
            training={**base, **more},
        )
        losses[name] = [m["loss"] for m in metrics(trained(tmp_path / name, settings, store).path)]
    assert losses["again"] == pytest.approx(losses["whole"], rel=1e-5)
    exact = kind in ("jumprelu", "gated", "topk")
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-4 if exact else 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_was_trained(kind, store, tmp_path):
    settings = run_settings(
        autoencoder={"kind": kind, "d_sae": 12, "firing_rate": 0.2, **KINDS[kind]},
        constraint={"kind": "none"},
        training={"precision": "float32", "steps": STEPS},
    )
    run = trained(tmp_path / "run", settings, store)
    theirs = sae_lens.SAE.load_from_disk(run.sae).requires_grad_(False)
    x = next(open_source(store).heldout(50)).float()
    acts = theirs.encode(x)
    assert 0 < float((acts > 0).sum(1).float().mean()) < 12
    assert float((theirs(x) - x).square().sum()) < float((x - x.mean(0)).square().sum())
