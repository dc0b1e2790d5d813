"""Settings of unlearning."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sleave.base.settings import Settings
from sleave.language.questions import QuestionSettings


class ForgettingSettings(Settings):
    """What is common to forgetting topics and forgetting answers."""

    topics: tuple[str, ...] = ()
    """Which topics to forget, one after the other; all of them when empty."""
    documents: Annotated[int, Field(ge=8)] = 64
    """Known items of the topic, and as many of the others: so many to choose a configuration by (dev), and so many
    others to report (test)."""
    retain_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.99
    """The least accuracy on what is to be retained."""
    ce_rise: Annotated[float, Field(ge=0)] = 0.1
    """The most that the loss on retained items may rise, in nats a token."""
    controls: bool = True
    """Whether to run the controls, too: they take most of the time."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the samples that the probes are fitted to, and of the random controls."""


class MultipleChoiceSettings(ForgettingSettings):
    """Forgetting the answers to questions (WMDP's, say) and retaining those to others (MMLU's)."""

    topics: tuple[str, ...] = ("forget",)
    """`forget`, and `retain` for the other way round."""
    forget: QuestionSettings
    """The questions whose answers are to be forgotten."""
    retain: QuestionSettings
    """The questions whose answers are to be retained."""
    train: Annotated[int, Field(ge=1)] = 100
    """The first so many questions of each side are what features are chosen by; they are not asked."""
    orders: Annotated[int, Field(ge=1)] = 24
    """A question counts as known if the model is right in so many orders of its choices (published: all 24 of 4)."""


class UnlearningSettings(ForgettingSettings):
    """Forgetting one topic of the labelled passages at a time, by clamping features."""

    train: Annotated[int, Field(ge=10)] = 150
    """Passages of each topic that the probes are fitted to and the features chosen by."""
    probes: Annotated[int, Field(ge=1)] = 5
    """Probes, each fitted to another bootstrap sample; a passage is known if all of them get it right."""
    multiple_choice: MultipleChoiceSettings | None = None
    """Forget answers, too; with files or hub names of questions (`forget`, `retain`)."""
