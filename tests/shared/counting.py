"""A `RowStream` of numbers."""

import torch


class Counting:
    """0, 1, 2, ... as rows of two columns; remembers how much was read at once."""

    def __init__(self) -> None:
        self.next = 0
        self.reads: list[int] = []

    def read(self, n):
        self.reads.append(n)
        self.next += n
        return torch.arange(self.next - n, self.next)[:, None].repeat(1, 2)

    def state(self):
        return {"next": torch.tensor(self.next)}

    def restore(self, state):
        self.next = int(state["next"])
