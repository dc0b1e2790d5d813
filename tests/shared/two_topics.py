"""Short texts of two topics, made of tokens of their own."""

import torch

from sleave.language.contexts import Context
from sleave.language.passages import Passage

LAYER = 0


def make_passages(count: int = 60, seed: int = 0) -> list[Passage]:
    """Texts of two topics with words of their own: tokens 10 to 21, and 60 to 71; and some that both have."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for n in range(2 * count):
        topic = n % 2
        length = int(torch.randint(5, 9, (1,), generator=generator))
        own = torch.randint(10 + 50 * topic, 22 + 50 * topic, (length,), generator=generator).tolist()
        shared = torch.randint(110, 130, (3,), generator=generator).tolist()
        ids = (1, *own, *shared)
        found.append(Passage(Context(ids, (False, *[True] * (len(ids) - 1)), n), "ab"[topic]))
    return found
