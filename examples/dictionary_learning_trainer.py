"""dictionary_learning trains, sleave keeps features from saying the same thing.

    pip install dictionary-learning
    python examples/dictionary_learning_trainer.py

Trains the same dictionary with dictionary_learning's own `trainSAE` without and with a penalty, opens what it saved
with sleave and compares. `batches` may be any iterator of activations (batch, d_in), such as its ActivationBuffer.
"""

from __future__ import annotations

import tempfile
from typing import Any

from dictionary_learning.trainers import TopKTrainer
from dictionary_learning.training import trainSAE
from toy import D_IN, batches, report

import sleave

D_SAE, K, STEPS = 96, 6, 600


def train(penalty: sleave.Penalty | None, folder: str) -> sleave.SparseAutoencoder:
    def trainer(**settings: Any) -> TopKTrainer:
        made = TopKTrainer(**settings)
        return made if penalty is None else sleave.attach(penalty, made)

    settings = {"trainer": trainer, "activation_dim": D_IN, "dict_size": D_SAE, "k": K, "steps": STEPS}
    settings |= {"layer": 0, "lm_name": "none", "device": "cpu", "seed": 0, "lr": 3e-3, "warmup_steps": 20}
    trainSAE(batches(seed=1), [settings], steps=STEPS, save_dir=folder, device="cpu")
    return sleave.load(f"{folder}/trainer_0")


def main() -> None:
    for name, penalty in (("without", None), ("with", sleave.InformedOrthogonality())):
        with tempfile.TemporaryDirectory() as folder:
            report(name, train(penalty, folder))


if __name__ == "__main__":
    main()
