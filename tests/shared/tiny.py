"""Language models small enough to make on the spot: random weights, and a tokenizer trained on a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Kind = Literal["gpt2", "llama", "gpt_neox", "gemma2", "gemma3", "qwen2", "opt"]

SENTENCES = (
    "The market fell on Monday as oil prices rose.",
    "The team won the match after a late goal in the final.",
    "Scientists found water below the ice of a distant moon.",
    "The minister met the leaders of nine countries in Geneva.",
    "A new phone was shown in the city, and people stood in line for hours.",
)


def make_tokenizer(vocab_size: int = 400, bos: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be written with it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<bos>", "<eos>"] if bos else ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    names = {"bos_token": "<bos>"} if bos else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", **names
    )


def make_tiny_model(
    folder: Path,
    kind: Kind = "llama",
    d_model: int = 16,
    num_layers: int = 3,
    vocab_size: int = 400,
    seed: int = 0,
    positions: int = 64,
) -> Path:
    """Write a tiny causal language model and its tokenizer into a folder that `from_pretrained` opens.

    Sliding windows are 4 tokens, so that they matter in short texts. Qwen2 has no first token, like the real one.
    """
    sizes = {
        "hidden_size": d_model,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * d_model,
        "max_position_embeddings": positions,
        "vocab_size": vocab_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    heads = {"num_key_value_heads": 1, "head_dim": 8}
    windows = {"sliding_window": 4, "layer_types": (["sliding_attention", "full_attention"] * num_layers)[:num_layers]}
    # Rather large weights, for activations that differ much from token to token.
    config: transformers.PreTrainedConfig = {
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=d_model,
            n_layer=num_layers,
            n_head=2,
            n_positions=positions,
            vocab_size=vocab_size,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        ),
        "llama": lambda: transformers.LlamaConfig(**sizes, **heads, initializer_range=0.2),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**sizes, initializer_range=0.2),
        "gemma2": lambda: transformers.Gemma2Config(
            **sizes, **heads, **windows, attn_logit_softcapping=2.0, initializer_range=0.2
        ),
        "gemma3": lambda: transformers.Gemma3TextConfig(**sizes, **heads, **windows, initializer_range=0.2),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, num_key_value_heads=1, initializer_range=0.2),
        "opt": lambda: transformers.OPTConfig(
            hidden_size=d_model,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            ffn_dim=2 * d_model,
            max_position_embeddings=positions,
            vocab_size=vocab_size,
            word_embed_proj_dim=d_model,
            init_std=0.2,
            pad_token_id=0,
        ),
    }[kind]()
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    make_tokenizer(vocab_size, bos=kind != "qwen2").save_pretrained(folder)
    return folder
