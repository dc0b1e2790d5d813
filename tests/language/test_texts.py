"""Tokens as text, from a tokenizer alone."""

import shutil

import pytest
from tiny import SENTENCES, make_tokenizer

from sleave.base.errors import SleaveError
from sleave.language.settings import ModelSettings
from sleave.language.texts import token_texts


def test_texts_joined_are_the_text(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)  # and nothing else: no weights are needed
    texts = token_texts(ModelSettings(name=str(tmp_path), layers=(0,)))
    for sentence in (*SENTENCES, " two  spaces\n\tand <b>marks</b>"):
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        assert "".join(texts(ids)) == sentence
        assert len(texts(ids)) == len(ids)
    assert texts([]) == []


def test_spaces_before_words_stay_where_a_tokenizer_drops_the_first(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "\u2581a": 1, "\u2581the": 2, "\u2581team": 3, "s": 4}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.decode([2]) == "the"
    assert token_texts(ModelSettings(name=str(tmp_path), layers=(0,)))([2, 3, 4, 2]) == [" the", " team", "s", " the"]


def test_a_missing_tokenizer(tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(SleaveError, match="There is no folder"):
        token_texts(ModelSettings(name=str(tmp_path / "model" / "x"), layers=(0,)))
