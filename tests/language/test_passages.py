"""Passages are new to the autoencoder, and each is there once."""

import json

import pytest
from tiny import SENTENCES, make_tokenizer

from sleave.base.errors import SleaveError
from sleave.language.contexts import is_heldout
from sleave.language.corpora import Document
from sleave.language.passages import PassageSettings, passages, unseen_by
from sleave.language.settings import FileCorpus, HarvestSettings, HubCorpus

HALF = HarvestSettings(heldout_fraction=0.5)


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return FileCorpus(paths=(str(path),))


def read(corpus, unseen=lambda _: True, **settings):
    return passages(PassageSettings(corpus=(corpus,), **settings), make_tokenizer(), unseen)


def test_documents_that_begin_alike_are_there_once(tmp_path):
    repeated = [*SENTENCES, SENTENCES[0], *(SENTENCES[1] + more for more in SENTENCES)]
    found = read(write(tmp_path / "texts.jsonl", repeated), tokens=9)
    assert len({p.context.token_ids for p in found}) == len(found) == len(SENTENCES)
    assert len(read(write(tmp_path / "texts.jsonl", repeated), tokens=200)) == 2 * len(SENTENCES)


def test_what_training_saw_is_left_out(tmp_path):
    corpus = write(tmp_path / "texts.jsonl", SENTENCES)
    unseen = unseen_by([corpus], HALF)
    heldout = [text for text in SENTENCES if is_heldout(Document(text, None, ""), 0.5, HALF.seed)]
    assert 0 < len(heldout) < len(SENTENCES)
    assert len(read(corpus, unseen)) == len(heldout)
    assert len(read(write(tmp_path / "new.jsonl", [f"{text} So." for text in SENTENCES]), unseen)) == len(SENTENCES)


def test_beside_a_hub_corpus_only_held_out_documents_are_new(tmp_path):
    unseen = unseen_by([HubCorpus(name="fancyzhx/ag_news"), write(tmp_path / "texts.jsonl", SENTENCES)], HALF)
    documents = [Document(f"Text {n}.", None, source) for n in range(50) for source in ("packaged:ag_news", "hub:x")]
    assert [unseen(d) for d in documents] == [is_heldout(d, 0.5, HALF.seed) for d in documents]


def test_no_new_documents(tmp_path):
    corpus = write(tmp_path / "texts.jsonl", SENTENCES)
    with pytest.raises(SleaveError, match="None of the labelled documents is new"):
        read(corpus, unseen_by([corpus], HarvestSettings(heldout_fraction=0)))
