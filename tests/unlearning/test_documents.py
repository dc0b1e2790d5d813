"""A change at the hooked layer does what a hook in the whole model does."""

import pytest
import torch
from two_topics import LAYER

from sleave.language.contexts import Context
from sleave.unlearning.documents import Change, Documents

pytestmark = pytest.mark.usefixtures("one_thread")


def with_hook(model, context, delta):
    """The last hidden states of one document, from one pass through the whole model with a hook that adds delta."""

    def add(_module, _inputs, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        return hidden + delta if isinstance(output, torch.Tensor) else (hidden + delta, *output[1:])

    handle = model._blocks[LAYER].register_forward_hook(add)
    try:
        with torch.no_grad():
            return model._base(torch.tensor([context.token_ids]), use_cache=False)[0][0]
    finally:
        handle.remove()


def a_change(documents, every=7):
    position = torch.arange(0, len(documents.text), every)
    generator = torch.Generator().manual_seed(1)
    return Change(position, torch.randn(len(position), documents.residual.shape[1], generator=generator))


def test_pooled_states_are_those_of_a_hook(model, documents):
    change = a_change(documents)
    some = [3, 0, 17]
    found = documents.pooled(some, documents.finals(some, change))
    for row, d in zip(found, some, strict=True):
        delta = torch.zeros(len(documents.text), documents.residual.shape[1]).index_add(
            0, change.position, change.delta
        )[documents.start[d] : documents.start[d + 1]]
        expected = with_hook(model, documents.contexts[d], delta)[1:].mean(0)  # without the first, special token
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_loss_is_that_of_transformers(model, documents):
    found = documents.loss(documents.finals([5, 2]))
    assert set(found) == {5, 2}
    for d, (sum_, n) in found.items():
        ids = torch.tensor(documents.contexts[d].token_ids)
        logits = model._model(ids[None]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[1:-1], ids[2:], reduction="none")
        torch.testing.assert_close(torch.tensor(sum_), losses.sum(), rtol=1e-4, atol=1e-4)
        assert n == len(losses)


def test_only_some_documents_are_touched(documents):
    first = documents.start[4]
    change = Change(torch.tensor([first, first + 1]), torch.ones(2, documents.residual.shape[1]))
    assert documents.touched(change).nonzero().flatten().tolist() == [4]


def test_massive_norms_and_special_tokens_are_left_alone(model):
    contexts = [Context((1, 5, 9, 40), (False, True, True, True), 0)]
    everything = Documents.read(model, contexts, LAYER)
    assert everything.text.tolist() == [False, True, True, True]
    norm = everything.residual.norm(dim=1)
    ratio = float(norm[1:].max() / norm[1:].median()) * 0.999
    limited = Documents.read(model, contexts, LAYER, ratio)
    assert int(limited.text.sum()) == 2
    assert not limited.text[int(norm[1:].argmax()) + 1]
