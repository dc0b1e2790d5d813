"""Settings of unlearning."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sleave.base.settings import Settings


class UnlearningSettings(Settings):
    """Forgetting one topic of the labelled passages at a time, by clamping features."""

    topics: tuple[str, ...] = ()
    """Which topics to forget, one after the other; all of them when empty."""
    train: Annotated[int, Field(ge=10)] = 150
    """Passages of each topic that the probes are fitted to and the features chosen by."""
    documents: Annotated[int, Field(ge=8)] = 84
    """Known passages of the topic, and as many of the others: so many to choose a configuration by (dev), and so many
    others to report (test)."""
    probes: Annotated[int, Field(ge=1)] = 5
    """Probes, each fitted to another bootstrap sample; a passage is known if all of them get it right."""
    retain_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.99
    """The least accuracy on what is to be retained."""
    ce_rise: Annotated[float, Field(ge=0)] = 0.1
    """The most that the loss on retained passages may rise, in nats a token."""
    controls: bool = True
    """Whether to run the controls, too: they take most of the time."""
