"""Absorption is found where it was planted, and nowhere else; a model that cannot spell is said to."""

import random

import pytest
import tiny
import torch
from sklearn.metrics import f1_score

from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.behaviour.absorption import (
    AbsorptionSettings,
    absorption,
    f1,
    how_many,
    is_absorbed,
    of_words,
    own_features,
)
from sleave.behaviour.probes import Probe
from sleave.behaviour.spelling import ASKED, EXAMPLES, LETTERS, SpellingLists, Word, common_words, read_lists
from sleave.language.settings import ModelSettings
from sleave.language.whole import WholeModel

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = AbsorptionSettings(words_per_letter=30)


class Tokenizer:
    """Knows 40 words of each of five letters, the letters, an arrow and a line's end."""

    bos_token_id = 1

    def __init__(self, letters=LETTERS):
        words = [f"{letter}{''.join(random.Random(n).choices(LETTERS, k=4))}" for n in range(40) for letter in "abcde"]
        self.vocab = {f"Ġ{letter}": 10 + n for n, letter in enumerate(letters)} | {"Ġ->": 40, "\n": 41, "ĠOf": 42}
        self.vocab |= {f"Ġ{word}": 100 + n for n, word in enumerate(words)}

    def get_vocab(self):
        return self.vocab

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        token = self.vocab.get(text.replace(" ", "Ġ"))
        return {"input_ids": [3, 4] if token is None else [token]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make_tiny_model(tmp_path_factory.mktemp("model"), "gemma3", positions=128)


@pytest.fixture
def whole(folder):
    model = WholeModel.load(ModelSettings(name=str(folder), dtype="float32", layers=(0,), device="cpu"))
    model.tokenizer = Tokenizer()
    return model


def random_sae(d_in=16, d_sae=24):
    sae = ReLUAutoencoder(d_in, d_sae)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(0)))
        sae.W_enc.copy_(sae.W_dec.t())
    return sae.requires_grad_(False)


def test_words_are_the_commonest_of_each_letter():
    words = common_words(Tokenizer(), 30)
    assert [w.token for w in words[:3]] == [100, 105, 110]
    assert torch.tensor([w.letter for w in words]).bincount().tolist() == [30] * 5


def test_lists_ask_every_word_once_after_examples(whole):
    words = common_words(whole.tokenizer, 30)
    context, places = SpellingLists(whole.tokenizer, words).context(words[:3], random.Random(0))
    assert context.token_ids[0] == 1
    lines = torch.tensor(context.token_ids[1:]).reshape(EXAMPLES + 3, 4)
    assert lines[EXAMPLES:, 0].tolist() == [context.token_ids[place] for place in places] == [100, 105, 110]
    assert not set(lines[:EXAMPLES, 0].tolist()) & {100, 105, 110}
    letter_of = {w.token: w.letter for w in words}
    assert lines[:, 2].tolist() == [10 + letter_of[token] for token in lines[:, 0].tolist()]
    assert set(lines[:, 1].tolist()), set(lines[:, 3].tolist()) == ({40}, {41})


def test_reading_gives_each_word_its_own_row_and_answer(whole):
    words = common_words(whole.tokenizer, 30)[: 2 * ASKED + 5]
    lists = SpellingLists(whole.tokenizer, common_words(whole.tokenizer, 30))
    rows, said = read_lists(whole, 1, lists, words, True, lambda *_: None)
    draw = random.Random(0)
    made = [lists.context(words[n : n + ASKED], draw) for n in range(0, len(words), ASKED)]
    context, places = made[2]
    stream = whole.residuals([context], 1)
    torch.testing.assert_close(rows[2 * ASKED :], stream[0, places], rtol=1e-4, atol=1e-5)
    logits = whole.logits(whole.final(stream, 1)[0])
    assert said[2 * ASKED :].tolist() == logits[[p + 1 for p in places]][:, 10:36].argmax(1).tolist()


def test_a_model_that_cannot_spell(whole):
    found = absorption(random_sae(), whole, 1, SETTINGS)
    assert found.status == "cannot_spell"
    assert found.to_dict().keys() == {"status", "why", "spelling"}
    assert found.spelling < 0.5
    assert f"names the first letter of {found.spelling:.0%} of words; absorption.spelling asks for 50%" in found.why


def test_from_words_to_figures(whole):
    found = absorption(random_sae(), whole, 1, SETTINGS.model_copy(update={"spelling": 0.0}))
    assert (found.words, set(found.letters)) == (150, set("abcde"))
    assert 0 <= found.spelling < 0.5


def test_tokenizers_without_words_or_letters(whole):
    whole.tokenizer = tiny.make_tokenizer()
    assert absorption(random_sae(), whole, 1, SETTINGS).status == "too_few_words"
    whole.tokenizer = Tokenizer(letters="abc")
    assert absorption(random_sae(), whole, 1, SETTINGS).status == "no_letter_tokens"


def planted(absorbed_words, letters=4, each=90):
    """Words whose letter is a direction of its own; for some of the first letter's, features of their own stand in.

    Dimensions: a letter's direction each, then one for each word that absorbs.
    """
    g = torch.Generator().manual_seed(0)
    letter = torch.arange(letters).repeat_interleave(each)
    d = letters + absorbed_words
    x = torch.zeros(len(letter), d)
    x[torch.arange(len(letter)), letter] = 1 + 0.1 * torch.rand(len(letter), generator=g)
    x[torch.arange(absorbed_words), letters + torch.arange(absorbed_words)] = 1
    order = torch.randperm(len(letter), generator=g)
    sae = ReLUAutoencoder(d, d)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(d))
        sae.W_enc.copy_(torch.eye(d))
        sae.W_enc[letters:, 0] = -5  # the first letter's feature is silent where such a word's own one fires
        sae.W_dec[letters:, 0] = 1  # which writes the letter itself
    return sae.requires_grad_(False), x[order], letter[order], (torch.arange(len(letter)) < absorbed_words)[order]


def test_planted_absorption_is_found():
    sae, x, letter, special = planted(absorbed_words=15)
    found = of_words(sae, x, letter, 1.0)
    tested = torch.arange(len(x)) >= len(x) // 2
    assert (found.status, found.represented, found.split) == ("ok", 4, 1)
    a = found.letters["a"]
    assert (a.features, a.known) == ([0], int((tested & (letter == 0)).sum()))
    assert a.absorbed == int((tested & special).sum()) > 0
    assert a.rate == pytest.approx(a.absorbed / a.known)
    assert all(found.letters[name].rate == 0 for name in "bcd")
    assert found.mean == pytest.approx(a.rate / 4)
    low, high = found.intervals["mean"]
    assert low < found.mean < high


def test_without_it_there_is_none():
    sae, x, letter, _ = planted(absorbed_words=0)
    found = of_words(sae, x, letter, 1.0)
    assert (found.status, found.mean, found.intervals["mean"]) == ("ok", 0, (0, 0))


def test_without_features_of_letters_there_is_no_figure():
    sae, x, letter, _ = planted(absorbed_words=5)
    sae.W_enc[:, 1:4] = 0  # only the first letter has one
    sae.b_enc[1:4] = 1
    found = of_words(sae, x, letter, 1.0)
    assert (found.status, found.mean, found.intervals, found.represented) == ("no_letter_features", None, {}, 1)
    assert "Of 4 letters, 1 have features of their own" in found.why


def test_a_letter_that_the_probe_knows_nothing_of_is_not_represented():
    sae, x, letter, _ = planted(absorbed_words=0)
    x[len(x) // 2 :][letter[len(x) // 2 :] == 0] = 0  # nothing is left of it in the words that are tested on
    found = of_words(sae, x, letter, 1.0)
    assert (found.letters["a"].probe_f1, found.letters["a"].features_f1) == (0, 0)
    assert found.represented == 3


def test_the_number_of_features_is_not_chosen_on_the_words_tested_on():
    """Only there does a second feature help; and the F1 is what the chosen one reaches there."""
    g = torch.Generator().manual_seed(0)
    yes = torch.rand(400, generator=g) < 0.3
    train = torch.arange(400) < 200
    half = torch.rand(400, generator=g) < 0.5
    codes = torch.stack([yes & (train | half), yes & (train | ~half)], dim=1).float()  # alike in training
    codes[~train] *= 3
    features, reached = own_features(codes, yes, train)
    assert features.tolist() == [0]
    assert reached == pytest.approx(f1_score(yes[~train].numpy(), (codes[~train, 0] > 0).numpy()))


def test_features_that_rank_high_by_chance_are_not_counted():
    """One feature knows most of the words; of 5,000 others, each fires on a few at random."""
    g = torch.Generator().manual_seed(0)
    yes = torch.arange(600) % 12 == 0
    own = yes & (torch.rand(600, generator=g) < 0.7)
    codes = torch.cat([own[:, None], torch.rand(600, 5000, generator=g) < 0.01], dim=1).float()
    assert how_many(codes, yes) == 1


def test_each_condition_counts():
    """One word a row: absorbed; its own feature fires; no share; no cosine; the probe reads nothing."""
    probe = Probe(torch.tensor([1.0, 0.0]), 0.0)
    W_dec = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.01, 1.0]])
    codes = torch.tensor([[0, 1.0, 0], [0.5, 1, 0], [0, 0.3, 0], [0, 0, 90], [0, 1, 0]])
    x = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [-1, 0]])
    assert is_absorbed(x, codes, W_dec, probe, torch.tensor([0])).tolist() == [True, False, False, False, False]


def test_a_letter_split_in_two_has_two_features():
    g = torch.Generator().manual_seed(0)
    yes = torch.rand(400, generator=g) < 0.3
    half = torch.rand(400, generator=g) < 0.5
    codes = torch.stack([yes & half, yes & ~half, torch.rand(400, generator=g) < 0.2], dim=1).float()
    features, reached = own_features(codes, yes, torch.arange(400) < 200)
    assert sorted(features.tolist()) == [0, 1]
    assert reached == 1
    said = torch.rand(400, generator=g) < 0.4
    assert f1(said, yes) == pytest.approx(f1_score(yes.numpy(), said.numpy()))


@pytest.mark.slow
@pytest.mark.real_model
def test_gemma_can_spell():
    model = WholeModel.load(ModelSettings(name="packaged:gemma3-270m", layers=(0,), device="cpu"))
    words = common_words(model.tokenizer, 100)
    assert isinstance(words[0], Word)
    asked = random.Random(0).sample(words, 200)
    _, said = read_lists(model, 8, SpellingLists(model.tokenizer, words), asked, True, lambda *_: None)
    assert float((said == torch.tensor([w.letter for w in asked])).float().mean()) > 0.65
