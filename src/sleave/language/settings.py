"""What to read: a language model and its layers, text, and how text is cut into contexts."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, field_validator

from sleave.base.settings import DType, Settings


class ModelSettings(Settings):
    """A causal language model and the layers whose residual stream is read."""

    name: str
    """A hub name (`google/gemma-2-2b`), a local folder, or a packaged model (`packaged:gemma3-270m`)."""
    revision: str | None = None
    """The hub's branch, tag or commit; the newest when absent."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The number format that the model runs in; `auto` is `bfloat16` where the device has instructions for it,
    `float32` elsewhere. Residual streams overflow float16."""
    device: str = "auto"
    """A torch device (`cpu`, `cuda:1`); `auto` is `cuda` where there is one, else `cpu`."""
    compile: bool = False
    """Compile the blocks with torch.compile before they are read for a store or for training: half a minute to a minute
    when it begins, and more tokens a second from then on (benchmarks/harvest.txt). Needs a C++ compiler."""
    layers: tuple[int, ...]
    """Blocks, counted from 0, after which the residual stream is read (`blocks.{l}.hook_resid_post`)."""

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise ValueError(
                "must be one or more layers, 0 or above, ascending and without repeats, such as [3, 8, 13]"
            )
        return layers


class ModelShape(Settings):
    """How large a language model is: all that a plan needs to know of one that cannot be reached."""

    d_in: int = Field(ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """How many blocks the whole model has."""
    block_parameters: int = Field(ge=1)
    """Parameters of one block, on average."""
    vocabulary: int = Field(ge=1)
    """How many tokens its embedding has."""


class PackagedCorpus(Settings):
    """Text from a Python package; needs no hub. Every document has a topic as its label, and repeats are left out."""

    kind: Literal["packaged"] = "packaged"
    """Text from a Python package."""
    name: Literal["ag_news", "bbc_news", "news"]
    """`ag_news` (6,000 short items, 3 topics), `news` (4,891, 4 topics) or `bbc_news` (2,127 articles, 5 topics)."""


class HubCorpus(Settings):
    """A dataset on the Hugging Face hub, streamed in shuffled order."""

    kind: Literal["hub"] = "hub"
    """A dataset on the hub."""
    name: str
    """The dataset's name, such as `fancyzhx/ag_news`."""
    config: str | None = None
    """The dataset's configuration, where it has several."""
    split: str = "train"
    """The dataset's split."""
    text_field: str = "text"
    """The field that holds a document's text."""
    label_field: str | None = None
    """The field that holds a document's topic, if it has one."""
    revision: str | None = None
    """The hub's branch, tag or commit; the newest when absent."""


class FileCorpus(Settings):
    """Text files of your own."""

    kind: Literal["files"] = "files"
    """Files of your own."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files or patterns (`news/**/*.txt`); a document is a .txt file, or a row of a .jsonl, .csv or .parquet file."""
    text_field: str = "text"
    """The column that holds a document's text (not for .txt)."""
    label_field: str | None = None
    """The column that holds a document's topic, if it has one (not for .txt)."""


CorpusSettings = Annotated[Union[PackagedCorpus, HubCorpus, FileCorpus], Field(discriminator="kind")]  # noqa: UP007


class ContextSettings(Settings):
    """How documents are cut into contexts, the sequences that the model reads."""

    context_length: Annotated[int, Field(ge=2)] = 128
    """The most tokens in a context, beginning-of-sequence token included."""
    max_special_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """Drop contexts with a larger share of special tokens than this (MI-Ortho: 0.1); the first token is not counted."""
    min_tokens: Annotated[int, Field(ge=1)] = 1
    """Drop contexts with fewer tokens than this, special tokens not counted."""


class HarvestSettings(ContextSettings):
    """How much is read, how it is split, and where the activations are kept."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of the documents and of the split. Apart from the run's seed, so that runs share activations."""
    store: str | None = None
    """Folder of the activation store. Without one, `sleave train` reads the language model as it goes (live mode)."""
    max_tokens: Annotated[int, Field(ge=1)] = 1_000_000
    """Stop after so many training rows (tokens), or at the end of the text. Live mode has no limit."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of documents that training never sees. A document is held out whole, by a hash of its text."""
    dtype: DType = "bfloat16"
    """Number format of the store. float16 overflows on many residual streams."""
    max_norm_ratio: Annotated[float, Field(gt=1)] | None = None
    """Leave out tokens whose norm, at any hooked layer, is more than so many times the median: the few massive
    activations would otherwise rule the scaling and the loss."""
    chunk_tokens: Annotated[int, Field(ge=1)] = 65_536
    """Training rows in one chunk of the store: what a kill loses at most."""
    batch_tokens: Annotated[int, Field(ge=1)] = 1024
    """Tokens that the language model reads at once, padding included."""
