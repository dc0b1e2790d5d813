"""Feature absorption: a feature of a word's first letter is silent where another, for fewer words, stands in for it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.progress import progress
from sleave.base.settings import Settings
from sleave.behaviour.probes import NOT_INSTALLED, Probe, fit_probe, installed, largest, separation
from sleave.behaviour.results import Intervals, Result, figures_and_intervals
from sleave.behaviour.spelling import ASKED, EXAMPLES, LETTERS, LISTS_SPELT, SpellingLists, common_words, read_lists
from sleave.language.whole import WholeModel

LEAST = 20  # words of a letter
MOST_SPLIT = 10  # features into which one letter may be split
F1_RISE = 0.03
COSINE = 0.025  # of the absorbing feature's direction to the probe's
SHARE = 0.4  # of the probe's reading that it makes up
REPRESENTED = 0.5  # of the F1 of the probe on activations that a letter's own features must reach
REGULARISATION = 10.0  # of probes on activations; there are about as many columns as words


class AbsorptionSettings(Settings):
    """Absorption of features for a word's first letter."""

    words_per_letter: int = Field(default=100, ge=LEAST)
    """So many of the commonest single-token words of each letter; probes are fitted on half of all words and tested on
    the others."""
    spelling: float = Field(default=0.5, ge=0, le=1)
    """A model that names fewer first letters than this share cannot spell, and absorption says nothing of it."""


@dataclass(frozen=True)
class CannotSpell(Result):
    """No figures.

    Attributes:
        spelling: share of words whose first letter the model names.
    """

    spelling: float


@dataclass(frozen=True)
class LetterAbsorption:
    """Of one letter, on words that nothing was fitted on.

    Attributes:
        rate: share of the words known by the probe in which the letter's feature is absorbed; None if there are none.
        known: words of the letter that the probe on activations gets right.
        absorbed: of these, how many.
        probe_f1: F1 of that probe.
        features: the letter's own features, best first; several if it is split.
        features_f1: F1 of a probe that reads these.
    """

    rate: float | None
    known: int
    absorbed: int
    probe_f1: float
    features: list[int]
    features_f1: float


@dataclass(frozen=True)
class Absorption(Result):
    """How often the features of first letters are absorbed.

    An autoencoder that has no features of first letters has none to absorb: the status then is `no_letter_features`.

    Attributes:
        spelling: share of words whose first letter the model names.
        words: how many were read; half of them are tested on.
        mean: the rate, mean over letters; None if fewer than half of the letters are represented.
        represented: letters that the probe on activations knows words of, and whose own features reach half its F1.
        split: features into which a letter is split, mean over letters; 1 if none is.
        probe_f1: F1 of the probes on activations, mean over letters.
        features_f1: F1 of those on the letters' own features, mean over letters.
        letters: the figures of each letter.
        intervals: of the mean, if there is one, 95%, over other words to test on.
    """

    spelling: float
    words: int
    mean: float | None
    represented: int
    split: float
    probe_f1: float
    features_f1: float
    letters: dict[str, LetterAbsorption]
    intervals: Intervals


def absorption(
    sae: SparseAutoencoder, model: WholeModel, layer: int, settings: AbsorptionSettings
) -> Absorption | CannotSpell | Result:
    """Measure absorption of first letters.

    A letter's own features are those on which a k-sparse probe's F1 still rises by more than 0.03 (k = 1, 2, ...; by
    cross-validation on the words that probes are fitted on). They are absorbed in a word that the probe on activations
    gets right if all of them are silent and the one feature that contributes most to what the probe reads (code times
    decoder direction times probe) has a cosine of at least 0.025 to it and makes up 0.4 of it or more.

    Args:
        sae: reads raw activations.
        model: the language model, which must be able to spell.
        layer: the block after which it reads them.
        settings: how many words.

    Returns:
        the figures, with `no_letter_features` if it has none; or `cannot_spell`, with how well it does;
        `too_few_words`, `no_letter_tokens` or `not_installed`.

    Reference: Chanin et al. 2024, arXiv 2409.14507; by projection on the probe instead of ablation, which works at any
        layer, as in Karvonen et al. 2025, arXiv 2503.09532 (SAEBench). What the probe reads is taken from b_dec on,
        the point that the features' contributions add up from.
    """
    if not installed():
        return NOT_INSTALLED
    words = common_words(model.tokenizer, settings.words_per_letter)
    counts = torch.tensor([w.letter for w in words], dtype=torch.long).bincount(minlength=len(LETTERS))
    words = [w for w in words if counts[w.letter] >= LEAST]
    if len(words) < max(2 * LEAST, ASKED + EXAMPLES):
        why = f"The tokenizer has {len(words)} one-token words of letters with {LEAST} or more; {2 * LEAST} are needed."
        return Result("too_few_words", why)
    random.Random(0).shuffle(words)
    lists = SpellingLists(model.tokenizer, words)
    if lists.answers is None:
        return Result("no_letter_tokens", "The tokenizer has no token for each letter.")
    with progress("Spelling", len(words), "words") as advance:
        first = words[: ASKED * LISTS_SPELT]
        x, said = read_lists(model, layer, lists, first, True, advance)
        spelling = float((said == torch.tensor([w.letter for w in first])).double().mean())
        if spelling < settings.spelling:
            why = f"The model names the first letter of {spelling:.0%} of words; absorption.spelling asks for "
            return CannotSpell("cannot_spell", f"{why}{settings.spelling:.0%}.", spelling)
        if rest := words[len(first) :]:
            x = torch.cat([x, read_lists(model, layer, lists, rest, False, advance)[0]])
    return of_words(sae, x, torch.tensor([w.letter for w in words]), spelling)


def of_words(
    sae: SparseAutoencoder, x: Float[Tensor, "words d_in"], letter: Int[Tensor, " words"], spelling: float
) -> Absorption:
    """The figures, from the residual stream at each word and the number of its first letter; in random order."""
    with inference(sae):
        codes = sae.encode(x.to(sae.W_dec.device)).cpu()
    W_dec, b_dec = sae.W_dec.detach().cpu(), sae.b_dec.detach().cpu()
    train = torch.arange(len(x)) < len(x) // 2
    test = ~train
    found: dict[str, LetterAbsorption] = {}
    sums = []
    for number in letter.unique().tolist():
        yes = letter == number
        probe = fit_probe(x[train], yes[train], REGULARISATION)
        said = probe.scores(x[test]) > 0
        features, features_f1 = own_features(codes, yes, train)
        known = yes[test] & said
        absorbed = known & is_absorbed(x[test] - b_dec, codes[test], W_dec, probe, features)
        rate = float(absorbed.sum() / known.sum()) if known.any() else None
        found[LETTERS[number]] = LetterAbsorption(
            rate, int(known.sum()), int(absorbed.sum()), f1(said, yes[test]), features.tolist(), features_f1
        )
        sums.append(torch.stack([absorbed, known], dim=1).double())
    figures, intervals = figures_and_intervals(torch.cat(sums, dim=1), _mean_rate)
    of = found.values()
    represented = sum(v.known > 0 and v.features_f1 >= REPRESENTED * v.probe_f1 for v in of)
    enough = 2 * represented >= len(of)
    why = f"Of {len(of)} letters, {represented} have features of their own that tell them half as well as a probe does."
    return Absorption(
        status="ok" if enough else "no_letter_features",
        why="" if enough else f"{why} Where there are none, none can be absorbed.",
        spelling=spelling,
        words=len(x),
        mean=figures["mean"] if enough else None,
        represented=represented,
        split=fmean(len(v.features) for v in of),
        probe_f1=fmean(v.probe_f1 for v in of),
        features_f1=fmean(v.features_f1 for v in of),
        letters=found,
        intervals=intervals if enough else {},
    )


def own_features(
    codes: Float[Tensor, "words d_sae"], yes: Bool[Tensor, " words"], train: Bool[Tensor, " words"]
) -> tuple[Int[Tensor, " k"], float]:
    """The features of a letter, and the F1 of a probe that reads them.

    Features are ranked on the training words by how far they fire more for the letter, and the probe is fitted on them;
    how many there are is decided on the training words too (see `how_many`). F1 is on the other words.
    """
    k = how_many(codes[train], yes[train])
    features = largest(separation(codes[train], yes[train]), k)
    return features, f1(_says(codes[:, features], yes, train), yes[~train])


def how_many(codes: Float[Tensor, "words d_sae"], yes: Bool[Tensor, " words"]) -> int:
    """The number of a letter's features: as many as each raise the F1 by more than 0.03.

    F1 is of all words, each by what is ranked and fitted on the half that it is not in: among many features, some rank
    high by chance, and raise the F1 on the words that they were ranked on.
    """
    even = torch.where(yes, yes.cumsum(0), (~yes).cumsum(0)) % 2 == 0  # half of the letter's words, half of the others
    halves = [(fit, largest(separation(codes[fit], yes[fit]), MOST_SPLIT)) for fit in (even, ~even)]
    best = -F1_RISE
    for k in range(1, len(halves[0][1]) + 1):
        said = torch.zeros_like(yes)
        for fit, ranked in halves:
            said[~fit] = _says(codes[:, ranked[:k]], yes, fit)
        reached = f1(said, yes)
        if reached <= best + F1_RISE and k > 1:
            return k - 1
        best = reached
    return len(halves[0][1])


def _says(codes: Float[Tensor, "words k"], yes: Bool[Tensor, " words"], fit: Bool[Tensor, " words"]) -> Tensor:
    """What a probe that is fitted on some words says of the others."""
    return fit_probe(codes[fit], yes[fit]).scores(codes[~fit]) > 0


def is_absorbed(
    x: Float[Tensor, "words d_in"],
    codes: Float[Tensor, "words d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    probe: Probe,
    features: Int[Tensor, " k"],
) -> Bool[Tensor, " words"]:
    """Whether the given features are silent on a word and one other makes up what the probe reads.

    Args:
        x: activations, from b_dec on.
        codes: of the same words.
        W_dec: the features' directions.
        probe: of the letter.
        features: the letter's own.
    """
    along = W_dec @ probe.weight
    cosine = along / (W_dec.norm(dim=1) * probe.weight.norm()).clamp_min(1e-12)
    silent = (codes[:, features] == 0).all(dim=1)
    reading = x @ probe.weight
    most, which = (codes * along).max(dim=1)
    absorbed: Tensor = silent & (cosine[which] >= COSINE) & (reading > 0) & (most >= SHARE * reading)
    return absorbed


def f1(said: Bool[Tensor, " words"], yes: Bool[Tensor, " words"]) -> float:
    """Harmonic mean of precision and recall; 0 if nothing is found."""
    return float(2 * (said & yes).sum() / (said.sum() + yes.sum()))


def _mean_rate(sums: Tensor) -> dict[str, Tensor]:
    """Mean over the letters of which any word is known."""
    absorbed, known = sums.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return {"mean": (absorbed / known).nanmean(dim=-1)}
