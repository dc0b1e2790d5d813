"""One topic to forget: which documents choose a configuration, and which report it."""

from __future__ import annotations

from dataclasses import dataclass

from sleave.base.progress import progress
from sleave.unlearning.dictionary import Dictionary
from sleave.unlearning.questions import Questions
from sleave.unlearning.search import Asked, Grid, Order, Sides, Trial, by_rates, configurations, search

FEW = 8  # known documents of the topic; fewer decide nothing


@dataclass(frozen=True, eq=False)
class Task:
    """One topic to forget.

    Attributes:
        questions: all topics.
        topic: which one.
        dev, test: known documents to choose a configuration by, and to report.
    """

    questions: Questions
    topic: int
    dev: Asked
    test: Asked

    @staticmethod
    def of(questions: Questions, topic: int, documents: int) -> Task | None:
        """The task, with so many documents a side; None if too few are known.

        Of the topic itself fewer will do, since its accuracy has an interval; what is retained has limits to keep to.
        """
        forget, retain = questions.of(topic, questions.known)
        n = min(documents, len(forget) // 2)
        if n < FEW or len(retain) < 2 * documents:
            return None
        sides = (
            Sides(forget[:n], retain[:documents]),
            Sides(forget[n : 2 * n], retain[documents : 2 * documents]),
        )
        dev, test = (Asked(questions.documents, questions.judge, s) for s in sides)
        return Task(questions, topic, dev, test)

    @property
    def train(self) -> tuple[list[int], list[int]]:
        """Documents of the topic and of the others that features are chosen by."""
        return self.questions.of(self.topic, self.questions.train)

    def order(self, dictionary: Dictionary) -> Order:
        """The published order, by how often features fire on the training documents."""
        forget, retain = (dictionary.rates_on(self.questions.documents, side) for side in self.train)
        return by_rates(forget, retain)

    def search(self, dictionary: Dictionary, order: Order, grid: Grid, title: str) -> list[Trial]:
        """Every configuration of a grid, best first."""
        name = f"Forgetting {self.questions.topics[self.topic]}, {title}"
        with progress(name, len(configurations(grid, dictionary, order)), "configurations") as advance:
            return search(self.dev, dictionary, order, grid, lambda done: advance(done, ""))
