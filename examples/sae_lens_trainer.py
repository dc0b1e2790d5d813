"""SAELens trains, sleave keeps features from saying the same thing: `python examples/sae_lens_trainer.py`.

Trains the same autoencoder with SAELens's own SAETrainer without and with a penalty, saves it with SAELens, opens it
with sleave and compares. `batches` may be any iterator of activations (batch, d_in).
"""

from __future__ import annotations

import tempfile

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, LoggingConfig, SAETrainer
from sae_lens.config import SAETrainerConfig
from toy import D_IN, ROWS, batches, report

import sleave

D_SAE, K, STEPS = 96, 6, 600


def train(penalty: sleave.Penalty | None, folder: str) -> sleave.SparseAutoencoder:
    torch.manual_seed(0)
    config = SAETrainerConfig(
        total_training_samples=STEPS * ROWS,
        train_batch_size_samples=ROWS,
        device="cpu",
        autocast=False,
        lr=3e-3,
        lr_end=3e-4,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=STEPS // 5,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=200,
        feature_sampling_window=STEPS,
        checkpoint_path=None,
        save_final_checkpoint=False,
        n_checkpoints=0,
        logger=LoggingConfig(log_to_wandb=False),
    )
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K))
    trainer = SAETrainer(config, sae, batches(seed=1))
    if penalty is not None:
        sleave.attach(penalty, trainer)
    trainer.fit().save_inference_model(folder)
    return sleave.load(folder)


def main() -> None:
    for name, penalty in (("without", None), ("with", sleave.InformedOrthogonality())):
        with tempfile.TemporaryDirectory() as folder:
            report(name, train(penalty, folder))


if __name__ == "__main__":
    main()
