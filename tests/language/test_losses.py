"""Losses of next tokens are those of transformers, context by context."""

import pytest
import tiny
import torch
import transformers

from sleave.language import losses
from sleave.language.contexts import Context
from sleave.language.losses import next_token_losses
from sleave.language.settings import ModelSettings
from sleave.language.whole import WholeModel

pytestmark = pytest.mark.usefixtures("one_thread")
CONTEXTS = [
    Context((1, 5, 9, 40, 41, 7, 300), (False, *[True] * 6), 0),
    Context((1, 8, 9), (False, True, True), 1),
    Context((1, 8, 2, 9, 11), (False, True, False, True, True), 2),  # a special token in the middle
    Context((1, 8), (False, True), 3),  # nothing to predict
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make_tiny_model(tmp_path_factory.mktemp("model"), "gemma2")


@pytest.fixture(scope="module")
def whole(folder):
    return WholeModel.load(ModelSettings(name=str(folder), dtype="float32", layers=(0,), device="cpu"))


def found(whole, contexts):
    finals = whole.final(whole.residuals(contexts, 1), 1)
    return next_token_losses(whole, [f[: len(c.token_ids)] for f, c in zip(finals, contexts, strict=True)], contexts)


def test_as_transformers_has_them(folder, whole, monkeypatch):
    monkeypatch.setattr(losses, "POSITIONS", 4)  # several chunks, the last of them short
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    for context, loss in zip(CONTEXTS[:2], found(whole, CONTEXTS)[:2], strict=True):
        ids = torch.tensor([context.token_ids])
        labels = ids.clone()
        labels[:, :2] = -100  # what is predicted from the first token is left out
        with torch.no_grad():
            expected = model(ids, labels=labels).loss
        assert loss.shape == (len(context.token_ids) - 2,)
        torch.testing.assert_close(loss.mean(), expected, rtol=1e-4, atol=1e-5)


def test_only_text_read_at_text(whole):
    assert [len(loss) for loss in found(whole, CONTEXTS)] == [5, 1, 1, 0]
    assert [len(loss) for loss in found(whole, CONTEXTS[3:])] == [0]
