"""A causal language model cut off after its last hooked layer, read at the residual stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from sleave.base.device import check_compiler, choose_device, choose_dtype, say_if_slow
from sleave.base.errors import SleaveError
from sleave.base.progress import say
from sleave.language.contexts import Context, padded_ids, padded_keep, special_ids
from sleave.language.packaged import packaged_model
from sleave.language.quiet import quiet_transformers
from sleave.language.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = "packaged:"


class HookedModel:
    """A language model that gives the residual stream after some of its blocks, and nothing else.

    Blocks after the last hooked one are dropped, and so is the head: no logits are ever computed.

    Attributes:
        tokenizer: the model's tokenizer.
        layers: the hooked blocks, counted from 0.
        d_in: the width of the residual stream.
        num_layers: the number of blocks that the whole model has.
        name: the name it was asked for by.
        revision: the hub's commit, where it came from the hub.
        bos_id: the token that begins every context, where there is one.
        device: where it runs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layers: tuple[int, ...],
        name: str,
        device: torch.device,
        compile: bool = False,
    ) -> None:
        """Cut a model off and move what is left.

        Args:
            model: a causal language model; its later blocks are removed from it.
            tokenizer: the model's tokenizer.
            layers: the blocks to hook, ascending.
            name: what to call it.
            device: where to run it.
            compile: compile its blocks, when the first batch is read.

        Raises:
            SleaveError: there is no such layer, the model's blocks cannot be found, or there is no compiler.
        """
        config = model.config.get_text_config()
        self._model: nn.Module = model.base_model.eval()  # all but the head
        self._blocks = find_blocks(self._model, config.num_hidden_layers, name)
        self._max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.tokenizer = tokenizer
        self.layers = layers
        self.d_in: int = config.hidden_size
        self.num_layers = len(self._blocks)
        self.name = name
        self.revision: str | None = getattr(model.config, "_commit_hash", None)
        self.bos_id: int | None = tokenizer.bos_token_id
        if layers[-1] >= self.num_layers:
            raise SleaveError(
                f"`layers` (={list(layers)}) must be between 0 and {self.num_layers - 1}: "
                f"{name} has {self.num_layers} layers, counted from 0."
            )
        # The config stays as it is: models look up there what kind of attention each block has, by its number.
        del self._blocks[layers[-1] + 1 :]
        self._model.to(device)
        self.device = next(self._model.parameters()).device  # with its number, which is another in another thread
        if compile:
            check_compiler("model.compile", device)
            say(f"The blocks of {name} are compiled when the first batch is read, which takes up to a minute.")
            for block in self._blocks:  # one by one: hooks stay outside, and blocks share what is compiled
                block.forward = torch.compile(block.forward, dynamic=True)  # lengths differ from batch to batch

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, and so of what it computes."""
        return next(self._model.parameters()).dtype

    @classmethod
    def load(cls, settings: ModelSettings) -> HookedModel:
        """Load a model from the hub, a local folder or a package.

        Raises:
            SleaveError: the model, its tokenizer, package, hub or device is missing, or a file is damaged.
        """
        model, tokenizer, device = load_causal_model(settings)
        return cls(model, tokenizer, settings.layers, settings.name, device, settings.compile)

    # Not inference_mode: its tensors could not be fed to an autoencoder that is being trained.
    @torch.no_grad()
    def activations(self, contexts: Sequence[Context]) -> dict[int, Float[Tensor, "num_kept d_in"]]:
        """The residual stream after each hooked layer, at the kept tokens of one batch of contexts.

        Args:
            contexts: the batch; it runs at once, padded on the right to the longest (see `batches`).

        Returns:
            For each layer the rows of the kept tokens, in the order of contexts, then of positions; in the model's
            dtype, on the CPU.

        Raises:
            SleaveError: a context is longer than the model's positions.
        """
        # Attention is causal, so no kept token sees the padding after it: no mask, which is faster, and any id pads.
        token_ids, keep = padded_ids(contexts), padded_keep(contexts).to(self.device)
        check_positions(token_ids.shape[1], self._max_positions, self.name)
        rows: dict[int, Tensor] = {}

        def take(layer: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
                rows[layer] = (output if isinstance(output, Tensor) else output[0])[keep].cpu()

            return hook

        handles = [self._blocks[layer].register_forward_hook(take(layer)) for layer in self.layers]
        try:
            self._model(input_ids=token_ids.to(self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return rows

    @staticmethod
    def batches(contexts: Sequence[Context], max_tokens_per_batch: int = 2048) -> list[list[int]]:
        """Group contexts of like length, so that little is padding; longest first.

        Args:
            contexts: the contexts to group.
            max_tokens_per_batch: the most tokens in a batch, padding included; a longer context is a batch of its own.

        Returns:
            For each batch the indices of its contexts; every context is in one batch.
        """
        order = sorted(range(len(contexts)), key=lambda i: len(contexts[i].token_ids), reverse=True)
        groups: list[list[int]] = []
        for i in order:
            if groups and len(contexts[groups[-1][0]].token_ids) * (len(groups[-1]) + 1) <= max_tokens_per_batch:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups


def load_causal_model(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, torch.device]:
    """A whole causal language model, its tokenizer, and the device that it is meant for.

    Raises:
        SleaveError: the model, its tokenizer, package, hub or device is missing, or a file is damaged.
    """
    from transformers import AutoModelForCausalLM

    source = _source(settings.name)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    say_if_slow("model.dtype", dtype, device)
    config = load_config(settings)
    with quiet_transformers():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                revision=settings.revision,
                config=config,
                dtype=dtype,
                use_safetensors=True,  # nothing is ever unpickled
                attn_implementation=_attention(config),
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise SleaveError(_explain(settings, source, error)) from error
        return model, _tokenizer(settings, source), device


def load_config(settings: ModelSettings) -> Any:
    """What transformers knows of a model, without its weights.

    Raises:
        SleaveError: the model, its package or hub is missing.
    """
    from transformers import AutoConfig

    source = _source(settings.name)
    with quiet_transformers():
        try:
            return AutoConfig.from_pretrained(source, revision=settings.revision)
        except (OSError, ValueError) as error:
            raise SleaveError(_explain(settings, source, error)) from error


def find_blocks(model: nn.Module, num_layers: int, name: str) -> nn.ModuleList:
    """The list of a model's blocks: the outermost one with as many members as the config counts layers.

    Raises:
        SleaveError: there is none.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise SleaveError(
        f"No list of {num_layers} blocks was found in {name} ({type(model).__name__}); "
        "only models made of one row of blocks can be read."
    )


def check_positions(width: int, most: int | None, name: str) -> None:
    """Refuse what is longer than the positions that a model has, if its config says how many they are.

    Raises:
        SleaveError: it is longer.
    """
    if most is not None and width > most:
        raise SleaveError(
            f"`context_length` (={width}) must be at most {most}, the positions that {name} has; lower context_length "
            "(of passages: tokens), or give shorter questions."
        )


def _attention(config: Any) -> str | None:
    # Gemma 2 caps attention scores, which only the plain implementation does; None leaves the choice to transformers.
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """A model's tokenizer, without the model.

    Raises:
        SleaveError: it is missing.
    """
    source = _source(settings.name)
    with quiet_transformers():
        return _tokenizer(settings, source)


def _tokenizer(settings: ModelSettings, source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    missing = f"The model `{settings.name}` has no tokenizer that can be used; save one beside it"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, revision=settings.revision)
    except (OSError, ValueError) as error:
        raise SleaveError(f"{missing} ({error}).") from error
    # Where the files are missing, transformers makes up a tokenizer that knows no words.
    if set(tokenizer("The team won.", add_special_tokens=False)["input_ids"]) <= special_ids(tokenizer):
        raise SleaveError(f"{missing} (tokenizer.json).")
    return tokenizer


def _source(name: str) -> str:
    """What to hand to `from_pretrained`."""
    if name.startswith(PACKAGED):
        return str(packaged_model(name.removeprefix(PACKAGED)))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise SleaveError(
            f"There is no folder `{name}` (seen from `{Path.cwd()}`), and it is no name on the hub either. Allowed: a "
            "folder with config.json, safetensors and tokenizer files; a hub name such as `google/gemma-2-2b`; or "
            "`packaged:gemma3-270m`."
        )
    return name


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain(settings: ModelSettings, source: str, error: Exception) -> str:
    """Why a model could not be loaded, and what to do."""
    from huggingface_hub import errors

    causes = list(_causes(error))
    name = f"`{settings.name}`" + (f" (revision `{settings.revision}`)" if settings.revision else "")

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if caused_by(SafetensorError):
        return f"The weights of {name} are truncated or damaged ({error}). Download or copy them again."
    if (folder := Path(source)).is_dir():
        if not (folder / "config.json").is_file():
            return (
                f"The folder {name} holds no model: it has no config.json. Give the folder that save_pretrained wrote."
            )
        if not any(folder.glob("*.safetensors")):
            return (
                f"The folder {name} has no safetensors weights. Pickled weights (.bin, .pt) can run code when they "
                "are read, so they never are; write the model again with `save_pretrained(folder)`."
            )
        return f"The model in the folder {name} cannot be loaded: {error}"
    if caused_by(errors.GatedRepoError):
        return (
            f"The model {name} is gated: accept its terms on its page on the hub, then log in with `hf auth login` or "
            "set HF_TOKEN."
        )
    if caused_by(errors.RevisionNotFoundError):
        return f"The hub's model {name} has no such revision; give a branch, tag or commit that it has."
    if caused_by(errors.RepositoryNotFoundError):
        return f"There is no model {name} on the hub, or it is private; check its name, or log in with `hf auth login`."
    if caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        return (
            f"The model {name} is neither a folder here nor in the hub's cache, and the hub cannot be reached. "
            "Connect, or use what needs no hub: a local folder, or `packaged:gemma3-270m`."
        )
    return f"The model {name} cannot be loaded: {error}"
