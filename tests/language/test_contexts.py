import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SENTENCES, make_tokenizer

from sleave.language.contexts import Context, context_of, contexts, is_heldout, special_ids
from sleave.language.corpora import Document
from sleave.language.settings import ContextSettings


def document(text: str) -> Document:
    return Document(text, None, "test")


def cut(texts: list[str], bos: bool = True, **settings: object) -> list[Context]:
    return list(contexts(enumerate(map(document, texts)), make_tokenizer(bos=bos), ContextSettings(**settings)))


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("length", [2, 5, 6, 64])
def test_a_document_is_cut_into_contexts_that_hold_it_whole(bos, length):
    cs = cut(list(SENTENCES), bos=bos, context_length=length)
    tokenizer = make_tokenizer(bos=bos)
    for number, text in enumerate(SENTENCES):
        own = [c for c in cs if c.document == number]
        if bos:
            assert all(c.token_ids[0] == tokenizer.bos_token_id and not c.keep[0] for c in own)
        pieces = [c.token_ids[bos:] for c in own]
        assert tokenizer.decode([i for piece in pieces for i in piece]) == text
        assert all(len(c.token_ids) == length for c in own[:-1])
        assert 0 < len(own[-1].token_ids) <= length
        assert sum(c.num_kept for c in own) == sum(map(len, pieces))


def test_tokens_become_a_context_behind_the_first_token():
    assert context_of([7, 2, 9], make_tokenizer(), 4) == Context((1, 7, 2, 9), (False, True, True, True), 4)
    with_special = context_of([7, 2, 9], make_tokenizer(bos=False), 4, special={2})
    assert with_special == Context((7, 2, 9), (True, False, True), 4)


def test_special_tokens_in_the_text_are_not_kept():
    (context,) = cut(["ice<eos><pad>ice"])
    assert context.token_ids[0] == 1
    assert [i for i, kept in zip(context.token_ids, context.keep, strict=True) if not kept] == [1, 2, 0]


def test_contexts_with_many_special_tokens_are_dropped():
    texts = ["ice<eos>", "ice ice ice ice ice ice ice ice ice"]
    assert [c.document for c in cut(texts)] == [0, 1]
    assert [c.document for c in cut(texts, max_special_fraction=0.1)] == [1]
    assert [c.document for c in cut(texts, max_special_fraction=0.0)] == [1]
    assert cut(["<eos>"]) == []


def test_short_contexts_are_dropped():
    lengths = [c.num_kept for c in cut(list(SENTENCES), context_length=6)]
    assert [n for n in lengths if n >= 4] == [c.num_kept for c in cut(list(SENTENCES), context_length=6, min_tokens=4)]
    assert min(lengths) < 4


def test_more_documents_than_are_tokenized_at_once_keep_their_order():
    assert [c.document for c in cut(["ice"] * 1100)] == list(range(1100))


def test_special_ids_hold_added_special_tokens():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    assert special_ids(tokenizer) == {0, 1, 2, tokenizer.convert_tokens_to_ids("<turn>")}


@given(st.text(), st.floats(0, 1), st.integers(0, 5))
def test_repeats_of_a_text_fall_on_the_same_side(text, fraction, seed):
    side = is_heldout(document(text), fraction, seed)
    assert is_heldout(Document(text, "topic", "elsewhere"), fraction, seed) == side
    assert not is_heldout(document(text), 0, seed)
    assert is_heldout(document(text), 1, seed)


def test_the_share_and_the_seed_of_the_split():
    documents = [document(str(i)) for i in range(4000)]
    sides = [[is_heldout(d, 0.2, seed) for d in documents] for seed in (0, 1)]
    assert sum(sides[0]) == pytest.approx(800, abs=100)
    assert sides[0] != sides[1]
    assert all(is_heldout(d, 0.5, 0) for d in documents if is_heldout(d, 0.2, 0))  # a larger share adds to a smaller
