"""A whole model that stops after a block and goes on from there says what transformers says."""

from typing import get_args

import pytest
import tiny
import torch
import transformers

from sleave.base.errors import SleaveError
from sleave.language.contexts import Context, padded_ids, padded_keep
from sleave.language.settings import ModelSettings
from sleave.language.whole import WholeModel

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXTS = [Context((1, 5, 9, 40, 41, 7, 300), (False, *[True] * 6), 0), Context((1, 8, 9), (False, True, True), 1)]


@pytest.fixture(scope="module", params=get_args(tiny.Kind))
def folder(request, tmp_path_factory):
    return tiny.make_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def whole(folder):
    return WholeModel.load(ModelSettings(name=str(folder), dtype="float32", layers=(0,), device="cpu"))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_stopping_and_going_on_gives_the_logits_of_the_model(folder, whole, layer):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        expected = [model(torch.tensor([c.token_ids]), output_hidden_states=True) for c in CONTEXTS]
    residual = whole.residuals(CONTEXTS, layer)
    final = whole.final(residual, layer)
    for n, (context, output) in enumerate(zip(CONTEXTS, expected, strict=True)):
        length = len(context.token_ids)
        if layer < 2:  # the last hidden state of transformers has the final norm in it
            torch.testing.assert_close(residual[n, :length], output.hidden_states[layer + 1][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole.logits(final[n, :length]), output.logits[0], rtol=1e-4, atol=1e-4)


def test_it_is_as_before_afterwards(whole):
    first = whole.logits(whole.final(whole.residuals(CONTEXTS, 1), 1)[0])
    changed = whole.logits(whole.final(whole.residuals(CONTEXTS, 1) * 2, 1)[0])
    again = whole.logits(whole.final(whole.residuals(CONTEXTS, 0), 0)[0])
    torch.testing.assert_close(first, again, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, changed)


def test_padding_and_special_tokens_are_not_text():
    assert padded_ids(CONTEXTS)[1].tolist() == [1, 8, 9, 0, 0, 0, 0]
    assert padded_keep(CONTEXTS).sum(1).tolist() == [6, 2]


def test_a_layer_that_is_not_there(whole):
    with pytest.raises(SleaveError, match=r"`layer` \(=3\) must be between 0 and 2"):
        whole.residuals(CONTEXTS, 3)


def test_context_longer_than_the_positions(whole):
    with pytest.raises(SleaveError, match=r"`context_length` \(=65\) must be at most 64, the positions that"):
        whole.residuals([Context((5,) * 65, (True,) * 65, 0)], 0)
