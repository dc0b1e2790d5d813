"""How large a language model is, without its weights."""

from __future__ import annotations

from sleave.language.model import find_blocks, load_config
from sleave.language.settings import ModelSettings, ModelShape


def model_shape(settings: ModelSettings) -> ModelShape:
    """The shape of a model: what its config makes, without memory for any number of it.

    Raises:
        SleaveError: the model, its package or hub is missing, or its blocks cannot be found.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    blocks = find_blocks(model.base_model, text.num_hidden_layers, settings.name)
    parameters = sum(p.numel() for p in blocks.parameters())
    return ModelShape(
        d_in=text.hidden_size,
        num_layers=len(blocks),
        block_parameters=round(parameters / len(blocks)),
        vocabulary=text.vocab_size,
    )
