"""A whole causal language model, which can stop after a block and go on from there with another residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sleave.base.errors import SleaveError
from sleave.language.contexts import Context, padded_ids
from sleave.language.model import check_positions, find_blocks, load_causal_model
from sleave.language.settings import ModelSettings


class WholeModel:
    """A language model with all its blocks and its head.

    Attributes:
        tokenizer: the model's tokenizer.
        name: the name it was asked for by.
        d_in: the width of the residual stream.
        num_layers: how many blocks it has.
        device: where it runs.
        dtype: the number format that it runs in.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, device: torch.device) -> None:
        config = model.config.get_text_config()
        self._model: Any = model.eval().to(device).requires_grad_(False)
        self._base: nn.Module = model.base_model
        self._blocks = find_blocks(self._base, config.num_hidden_layers, name)
        self.tokenizer = tokenizer
        self.name = name
        self.d_in: int = config.hidden_size
        self.num_layers = len(self._blocks)
        self._max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.device = device
        self._in_tuples = self._give_tuples()
        self.dtype: torch.dtype = next(model.parameters()).dtype

    @classmethod
    def load(cls, settings: ModelSettings) -> WholeModel:
        """Load a model from the hub, a local folder or a package.

        Raises:
            SleaveError: the model, its tokenizer, package, hub or device is missing, or a file is damaged.
        """
        model, tokenizer, device = load_causal_model(settings)
        return cls(model, tokenizer, settings.name, device)

    @torch.no_grad()
    def residuals(self, contexts: Sequence[Context], layer: int) -> Float[Tensor, "contexts width d_in"]:
        """The residual stream after a block, at every position; nothing above it is computed.

        Args:
            contexts: read at once, padded on the right to the longest (attention is causal: nothing sees the padding).
            layer: the block, counted from 0.

        Raises:
            SleaveError: there is no such block, or a context is longer than the model's positions.
        """
        if not 0 <= layer < self.num_layers:
            raise SleaveError(
                f"`layer` (={layer}) must be between 0 and {self.num_layers - 1}, the last of {self.name}."
            )
        token_ids = padded_ids(contexts)
        check_positions(token_ids.shape[1], self._max_positions, self.name)
        taken: list[Tensor] = []

        def take(_module: nn.Module, _inputs: Any, output: Any) -> None:
            taken.append(output if isinstance(output, Tensor) else output[0])

        handle = self._blocks[layer].register_forward_hook(take)
        try:
            with self._skipping(range(layer + 1, self.num_layers)):
                self._base(input_ids=token_ids.to(self.device), use_cache=False)
        finally:
            handle.remove()
        return taken[0]

    @torch.no_grad()
    def final(self, residual: Float[Tensor, "contexts width d_in"], layer: int) -> Float[Tensor, "contexts width d_in"]:
        """What the head reads, if the residual stream after a block is this: only the blocks above it are computed.

        Args:
            residual: of every position, in the model's dtype, as `residuals` gives it.
            layer: the block after which it is.
        """
        ids = torch.zeros(residual.shape[:2], dtype=torch.long, device=self.device)  # no block reads them
        with self._skipping(range(layer + 1), residual.to(self.device)):
            output = self._base(input_ids=ids, use_cache=False)
        final: Tensor = output[0]
        return final

    @torch.no_grad()
    def _give_tuples(self) -> list[bool]:
        """Whether each block gives a tuple, as many did in former versions of transformers."""
        found: list[bool] = []
        handles = [b.register_forward_hook(lambda *a: found.append(isinstance(a[2], tuple))) for b in self._blocks]
        self._base(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False)
        for handle in handles:
            handle.remove()
        return found

    @contextmanager
    def _skipping(self, numbers: range, residual: Tensor | None = None) -> Iterator[None]:
        """Let blocks hand on what they are given, or, if there is one, a residual stream instead."""

        def in_place_of(number: int) -> Callable[..., Any]:
            def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
                given = hidden_states if residual is None else residual
                return (given,) if self._in_tuples[number] else given

            return forward

        with ExitStack() as stack:
            for number in numbers:
                stack.enter_context(_forward(self._blocks[number], in_place_of(number)))
            yield

    @torch.no_grad()
    def logits(self, final: Float[Tensor, "positions d_in"]) -> Float[Tensor, "positions vocabulary"]:
        """The logits at some positions: the model's own head, with whatever scaling or capping it has."""

        def instead(_module: nn.Module, _inputs: Any) -> Any:
            return (final[None].to(self.device),)

        ids = torch.zeros(1, len(final), dtype=torch.long, device=self.device)
        handle = self._model.get_output_embeddings().register_forward_pre_hook(instead)
        try:
            with self._skipping(range(self.num_layers)):
                logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        return logits[0]


@contextmanager
def _forward(module: nn.Module, forward: Any) -> Iterator[None]:
    """Give a module another `forward` for as long as a block runs."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the class's own is there again
