"""`sleave audit` on what SAELens itself trained on the real model's activations, and on copies planted in it."""

from __future__ import annotations

import json

import pytest
import tomli_w
import torch
from gemma import gemma_recipe
from peers import sae_lens
from planted import rotated

import sleave
from sleave import jobs
from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.real_model]
D_SAE, COPIES, STEPS, BATCH = 512, 50, 150, 512


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A recipe's file, its store, and what SAELens trained on it and saved."""
    folder = tmp_path_factory.mktemp("study")
    recipe = gemma_recipe(tmp_path_factory.getbasetemp())
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    store = jobs.harvest(recipe)
    x = torch.cat(list(store.layer(8).blocks())).float()
    torch.manual_seed(0)

    def batches():
        while True:
            yield x[torch.randint(len(x), (BATCH,))]

    config = sae_lens.config.SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=STEPS * BATCH,
        device="cpu",
        autocast=False,
        lr=3e-3,
        lr_end=3e-3,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=BATCH,
        dead_feature_window=10,
        feature_sampling_window=100,
        logger=sae_lens.LoggingConfig(log_to_wandb=False),
    )
    made = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=640, d_sae=D_SAE, k=16, normalize_activations="expected_average_only_in"
    )
    sae = sae_lens.BatchTopKTrainingSAE(made)
    with torch.no_grad():  # from the mean, as else most features never fire
        sae.b_dec.copy_(x.mean(0) * 640**0.5 / x.norm(dim=1).mean())
    trainer = sae_lens.SAETrainer(config, sae, batches())
    trainer.fit().save_inference_model(folder / "theirs")
    return folder, store


def audited(study, path, out, *more):
    folder, _ = study
    assert main(["audit", str(path), str(folder / "recipe.toml"), "--out", str(out), *more]) == 0
    return json.loads((out / "audit.json").read_text())


def planted(sae, rate):
    """Copies of 100 features that fire, 50 of them turned to a cosine of 0.9, in another order among the rest."""
    g = torch.Generator().manual_seed(3)
    of = (rate > 0).nonzero().flatten()
    of = of[torch.randperm(len(of), generator=g)[: 2 * COPIES]]
    assert len(of) == 2 * COPIES
    encoder, decoder = (
        torch.cat([rows[:COPIES], rotated(rows[COPIES:], 0.9, seed=4)]) for rows in (sae.W_enc.t()[of], sae.W_dec[of])
    )
    larger = JumpReLUAutoencoder(sae.d_in, sae.d_sae + len(of), sae.apply_b_dec_to_input).requires_grad_(False)
    order = torch.randperm(larger.d_sae, generator=g)
    larger.W_enc.copy_(torch.cat([sae.W_enc.t(), encoder])[order].t())
    larger.W_dec.copy_(torch.cat([sae.W_dec, decoder])[order])
    larger.b_enc.copy_(torch.cat([sae.b_enc, sae.b_enc[of]])[order])
    larger.threshold.copy_(torch.cat([sae.threshold, sae.threshold[of]])[order])
    larger.b_dec.copy_(sae.b_dec)
    place = order.argsort()
    pairs = zip(place[of].tolist(), place[sae.d_sae :].tolist(), strict=True)
    return larger.eval(), {(min(pair), max(pair)) for pair in pairs}


def test_what_sae_lens_trained_and_copies_planted_in_it(study, tmp_path):
    folder, store = study
    found = audited(study, folder / "theirs", tmp_path / "theirs")
    assert found["about"]["architecture"] == "jumprelu"
    assert found["summary"]["rows"] == sum(store.num_rows(s) for s in ("train", "heldout"))
    x = torch.cat([*store.layer(8).blocks(), *store.layer(8, "heldout").blocks()]).float()
    theirs = sae_lens.SAE.load_from_disk(folder / "theirs").requires_grad_(False)
    acts = theirs.encode(x)
    assert found["summary"]["l0"] == pytest.approx(float((acts > 0).sum(1).float().mean()), rel=1e-3)
    error, spread = (theirs(x) - x).square().sum(), (x - x.mean(0)).square().sum()
    assert found["summary"]["fvu"] == pytest.approx(float(error / spread), rel=1e-3)
    first = found["rankings"]["correlation"][0]
    r = torch.corrcoef(acts[:, [first["i"], first["j"]]].t().double())[0, 1]
    assert first["pearson"] == pytest.approx(float(r), abs=1e-4)
    assert found["contexts"][str(first["i"])]
    assert (tmp_path / "theirs" / "audit.html").read_text().rstrip().endswith("</html>")

    larger, pairs = planted(sleave.load(folder / "theirs"), (acts > 0).float().mean(0))
    sleave.save(larger, tmp_path / "planted")
    after = audited(study, tmp_path / "planted", tmp_path / "after", "--pairs", "1000")
    near = {(f["pair"]["i"], f["pair"]["j"]) for f in after["near_duplicates"]}
    assert pairs <= near
    cluster = {member: n for n, c in enumerate(after["clusters"]) for member in c["members"]}
    assert all(cluster[i] == cluster[j] for i, j in pairs)


def test_nothing_is_invented_in_a_random_orthogonal_dictionary(study, tmp_path):
    _, store = study
    x = torch.cat(list(store.layer(8).blocks())).float()
    sae = ReLUAutoencoder(640, 640, apply_b_dec_to_input=True).requires_grad_(False)
    sae.W_dec.copy_(torch.linalg.qr(torch.randn(640, 640, generator=torch.Generator().manual_seed(1))).Q)
    sae.W_enc.copy_(sae.W_dec.t())
    sae.b_dec.copy_(x.mean(0))
    strength = (x - sae.b_dec) @ sae.W_enc
    sae.b_enc.copy_(-strength.quantile(0.95, dim=0))
    sleave.save(sae, tmp_path / "random")
    summary = audited(study, tmp_path / "random", tmp_path / "out")["summary"]
    counts = ("near_duplicates", "clusters", "splits", "absorptions")
    assert {name: summary[name] for name in counts} == dict.fromkeys(counts, 0)
    assert summary["l0"] == pytest.approx(32, rel=0.2)


def test_a_checkpoint_that_does_not_say_its_scale_is_told_by_the_rows(study, tmp_path, capsys):
    """SAELens's own loader would ignore it in silence."""
    made = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=640, d_sae=64, k=8, normalize_activations="expected_average_only_in"
    )
    sae_lens.BatchTopKTrainingSAE(made).save_model(tmp_path / "checkpoint")
    found = audited(study, tmp_path / "checkpoint", tmp_path / "out")
    assert found["summary"]["l0"] == pytest.approx(8, rel=0.1)  # its threshold was never set, either
    assert "leaves open how it scales or cuts" in capsys.readouterr().err.replace("\n", " ")
    sae = sleave.audit(sae_lens.BatchTopKTrainingSAE(made), study[0] / "recipe.toml")  # a live one
    assert sae.summary.l0 == pytest.approx(8, rel=0.1)
