"""Our penalties in the trainers of SAELens and dictionary_learning: real trainers, real steps."""

from __future__ import annotations

import copy

import pytest
import torch
from peers import dictionary_trainers, dictionary_training, matryoshka, sae_lens, top_k
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput

import sleave
from sleave.dependence.correlation import unit_columns

D_IN, D_SAE, K, BATCH = 16, 48, 4, 64


def batches(seed=0):
    """Sums of a few of 40 sparse features, of which every second fires with its neighbour."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(9))
    while True:
        fires = (torch.rand(BATCH, 40, generator=generator) < 0.08).float()
        fires[:, 1::2] = torch.where(torch.rand(BATCH, 20, generator=generator) < 0.7, fires[:, ::2], fires[:, 1::2])
        yield 0.1 + (fires * (1 + torch.rand(BATCH, 40, generator=generator))) @ features


# SAELens

SIZE = {"d_in": D_IN, "d_sae": D_SAE}
# On CPUs, SAELens itself cannot train with sparse activations that the decoder's norms have scaled.
SPARSE = {"k": K, "use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
WIDTHS = {"k": K, "matryoshka_widths": [16, D_SAE]}
THEIRS = {
    "standard": (sae_lens.StandardTrainingSAE, sae_lens.StandardTrainingSAEConfig, {"l1_coefficient": 0.1}),
    "gated": (sae_lens.GatedTrainingSAE, sae_lens.GatedTrainingSAEConfig, {"l1_coefficient": 0.1}),
    "jumprelu": (sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig, {"l0_coefficient": 0.1}),
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig, {"k": K}),
    "topk sparse": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig, SPARSE),
    "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig, {"k": K}),
    "matryoshka": (sae_lens.MatryoshkaBatchTopKTrainingSAE, sae_lens.MatryoshkaBatchTopKTrainingSAEConfig, WIDTHS),
}
SCHEDULE = {"lr_scheduler_name": "constant", "lr_warm_up_steps": 0, "lr_decay_steps": 0, "n_restart_cycles": 1}
QUIET = {"checkpoint_path": None, "save_final_checkpoint": False, "n_checkpoints": 0, "autocast": False}


def sae_lens_trainer(name, steps=40):
    torch.manual_seed(0)
    make, settings, own = THEIRS[name]
    config = SAETrainerConfig(
        **SCHEDULE,
        **QUIET,
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        device="cpu",
        lr=1e-2,
        lr_end=1e-3,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=1000,
        feature_sampling_window=1000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return sae_lens.SAETrainer(config, make(settings(**SIZE, **own)), batches())


def step_input(x):
    return TrainStepInput(x, {"l1": 0.1, "l0": 0.1}, None, 0, False)


class Spy(sleave.FullOrthogonality):
    """Remembers what it was called with."""

    def __call__(self, acts, W_dec=None, residual=None):
        self.given = (acts, W_dec, residual)
        self.calls = getattr(self, "calls", 0) + 1
        return super().__call__(acts, W_dec, residual)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", THEIRS)
def test_sae_lens_loss_has_the_penalty_of_its_codes(name):
    trainer, x = sae_lens_trainer(name), next(batches(1))
    plain = copy.deepcopy(trainer.sae).training_forward_pass(step_input(x))
    penalty = Spy(weight=0.3)
    assert sleave.attach(penalty, trainer) is trainer
    output = trainer.sae.training_forward_pass(step_input=step_input(x))
    acts, W_dec, residual = penalty.given
    expected = sleave.FullOrthogonality(weight=0.3)(plain.feature_acts.to_dense())
    torch.testing.assert_close(output.loss, plain.loss + expected)
    torch.testing.assert_close(output.losses["sleave"], expected)
    assert set(output.losses) - set(plain.losses) == {"sleave"}
    assert all(torch.equal(output.losses[n], value) for n, value in plain.losses.items())
    # What the penalty is told: acts @ W_dec + b_dec is the reconstruction, and the residual is that less the input.
    torch.testing.assert_close(acts @ W_dec + trainer.sae.b_dec, output.sae_out)
    torch.testing.assert_close(residual, output.sae_out - x)
    assert not residual.requires_grad
    output.losses["sleave"].backward()
    assert bool(trainer.sae.W_enc.grad.any())


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", ["standard", "topk sparse", "batchtopk"])
def test_sae_lens_trains_with_it(name):
    cosines = []
    for weight in (0.0, 1.0):
        trainer = sleave.attach(sleave.FullOrthogonality(weight=weight), sae_lens_trainer(name))
        cosines.append(overlap(sleave.from_live(trainer.fit(), sample=next(batches(5)))))
    assert cosines[1] < 0.8 * cosines[0]


def overlap(sae):
    """The mean squared cosine of codes, over pairs, on rows that were not trained on."""
    with torch.no_grad():
        z, _ = unit_columns(sae.encode(torch.cat([next(batches(seed)) for seed in range(20, 30)])))
        return float((z @ z.t()).triu(1).square().mean())


def test_two_penalties_add_up():
    trainer, x = sae_lens_trainer("standard"), next(batches(1))
    sleave.attach(sleave.FullOrthogonality(weight=0.1), trainer)
    once = float(trainer.sae.training_forward_pass(step_input(x)).losses["sleave"].detach())
    sleave.attach(sleave.FullOrthogonality(weight=0.2), trainer)
    assert float(trainer.sae.training_forward_pass(step_input(x)).losses["sleave"].detach()) == pytest.approx(3 * once)


# dictionary_learning

COMMON = {"activation_dim": D_IN, "dict_size": D_SAE, "layer": 0, "lm_name": "m", "device": "cpu", "lr": 1e-3}
COMMON |= {"steps": 100, "warmup_steps": 1, "seed": 0}
LATE = {"threshold_start_step": 5}
TRAINERS = {
    "topk": lambda: top_k.TopKTrainer(**COMMON, **LATE, k=K),
    "batch_topk": lambda: dictionary_trainers.BatchTopKTrainer(**COMMON, **LATE, k=K),
    "matryoshka": lambda: matryoshka.MatryoshkaBatchTopKTrainer(**COMMON, **LATE, k=K, group_fractions=[0.25, 0.75]),
    "standard": lambda: dictionary_trainers.StandardTrainer(**COMMON, sparsity_warmup_steps=2),
    "jumprelu": lambda: dictionary_trainers.JumpReluTrainer(**COMMON, sparsity_warmup_steps=2),
    "gated": lambda: dictionary_trainers.GatedSAETrainer(**COMMON, sparsity_warmup_steps=2),
    "p_anneal": lambda: dictionary_trainers.PAnnealTrainer(**COMMON, sparsity_warmup_steps=2, anneal_start=50),
    "gated_anneal": lambda: dictionary_trainers.GatedAnnealTrainer(**COMMON, sparsity_warmup_steps=2, anneal_start=50),
}


def decoder(ae):
    return ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight.t()


@pytest.mark.parametrize("name", TRAINERS)
def test_dictionary_learning_loss_has_the_penalty_of_its_codes(name):
    x = next(batches(1))
    torch.manual_seed(0)
    plain = TRAINERS[name]()
    with torch.no_grad():
        log = copy.deepcopy(plain).loss(x, step=1, logging=True)
    expected = plain.loss(x, step=1)
    torch.manual_seed(0)
    penalty, trainer = Spy(weight=0.3), TRAINERS[name]()
    assert sleave.attach(penalty, trainer) is trainer
    loss = trainer.loss(x, step=1)
    acts, W_dec, residual = penalty.given
    torch.testing.assert_close(acts, log[2])
    torch.testing.assert_close(residual, log[1] - x)
    assert torch.equal(W_dec, decoder(trainer.ae))
    value = sleave.FullOrthogonality(weight=0.3)(log[2])
    torch.testing.assert_close(loss, expected + value)
    with torch.no_grad():
        logged = trainer.loss(x, step=1, logging=True)
    assert type(logged).__name__ == type(log).__name__
    assert all(torch.equal(a, b) for a, b in zip(logged[:3], log[:3], strict=True))
    changed = {n: logged[3][n] - v for n, v in log[3].items() if isinstance(v, float) and logged[3][n] != v}
    assert changed == ({} if name == "p_anneal" else {"loss": pytest.approx(float(value), rel=1e-4)})
    assert set(logged[3]) - set(log[3]) == {"sleave"}
    assert not {"encode", "decode"} & set(vars(trainer.ae))  # nothing is left behind


@pytest.mark.parametrize("name", TRAINERS)
def test_dictionary_learning_trains_with_it(name):
    weights = []
    for penalty in (
        None,
        sleave.SelectiveOrthogonality(0.5, weight=0.0),
        sleave.SelectiveOrthogonality(0.5, weight=1.0),
    ):
        torch.manual_seed(0)
        trainer = TRAINERS[name]() if penalty is None else sleave.attach(penalty, TRAINERS[name]())
        for step, x in zip(range(8), batches(), strict=False):
            trainer.update(step, x.clone())
        weights.append(decoder(trainer.ae).detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert not torch.equal(weights[0], weights[2])


def test_logging_does_not_count_as_a_batch():
    penalties = [sleave.SelectiveOrthogonality(top=0.1, refresh=4, window=2) for _ in range(2)]
    trainers = [sleave.attach(penalty, TRAINERS["topk"]()) for penalty in penalties]
    for step, x in zip(range(7), batches(), strict=False):
        with torch.no_grad():
            trainers[1].loss(x, step=step, logging=True)
        for trainer in trainers:
            trainer.update(step, x.clone())
        states = [penalty.state() for penalty in penalties]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][n].nan_to_num(), states[1][n].nan_to_num()) for n in states[0])
    assert torch.equal(trainers[0].ae.encoder.weight, trainers[1].ae.encoder.weight)


def test_their_own_loop_takes_a_function_that_makes_the_trainer(tmp_path):
    penalty = Spy(weight=0.1)
    settings = {n: v for n, v in COMMON.items() if n != "steps"} | {"steps": 12, "k": K} | LATE
    settings["trainer"] = lambda **s: sleave.attach(penalty, dictionary_trainers.BatchTopKTrainer(**s))
    dictionary_training.trainSAE(batches(), [settings], steps=12, save_dir=str(tmp_path), device="cpu")
    assert penalty.calls == 12
    sae = sleave.load(tmp_path / "trainer_0")
    assert (sae.d_in, sae.d_sae) == (D_IN, D_SAE)


@pytest.mark.parametrize("trainer", [None, 3, torch.nn.Linear(2, 2), sleave.ReLUAutoencoder(2, 4)])
def test_other_trainers_are_refused(trainer):
    with pytest.raises(sleave.SleaveError, match=r"must be SAELens's SAETrainer or a trainer of dictionary_learning"):
        sleave.attach(sleave.MIOrtho(), trainer)
