"""The rolling buffer: its cadence, that nothing is handed out twice or lost, and that it resumes to the bit."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from counting import Counting
from hypothesis import given
from hypothesis import strategies as st

from sleave.activations.buffer import RollingBuffer, StoredIds
from sleave.base.errors import SleaveError

sizes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 12))  # batch, refresh, capacity to spare


def test_cadence_of_the_paper():
    """A buffer of 2048 contexts, batches of 32, refreshed every 24 batches: 768 new ones each time."""
    stream = Counting()
    buffer = RollingBuffer(stream, 2048, refresh_batches=24, batch_size=32, seed=0)
    reads = []
    for _ in range(1 + 24 + 24 + 1):
        buffer.next_batch()
        reads.append(list(stream.reads))
    assert reads[0] == reads[23] == [2048]
    assert reads[24] == reads[47] == [2048, 768]
    assert reads[48] == [2048, 768, 768]


@given(sizes, st.integers(0, 3))
def test_each_entry_is_handed_out_at_most_once_and_none_is_lost(size, seed):
    batch_size, refresh, spare = size
    stream = Counting()
    buffer = RollingBuffer(stream, batch_size * refresh + spare, refresh, batch_size, seed)
    seen: list[int] = []
    for _ in range(3 * refresh):
        batch = buffer.next_batch()
        assert batch.shape == (batch_size, 2)
        seen += batch[:, 0].tolist()
    assert len(seen) == len(set(seen)) == 3 * refresh * batch_size
    kept = set(buffer.state()["entries"][:, 0].tolist())
    assert set(seen) | kept == set(range(stream.next))


def test_batches_are_shuffled_and_depend_on_the_seed():
    first = [RollingBuffer(Counting(), 64, 2, 32, seed).next_batch()[:, 0].tolist() for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    assert first[0] != sorted(first[0])


@given(sizes, st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_restored_at_any_moment_it_continues_to_the_bit(size, chunk_sizes):
    batch_size, refresh, spare = size
    boundaries = [sum(chunk_sizes[:i]) for i in range(len(chunk_sizes) + 1)]

    def make(seed: int) -> RollingBuffer:
        return RollingBuffer(StoredIds(boundaries, seed=5), batch_size * refresh + spare, refresh, batch_size, seed)

    buffer = make(0)
    states, batches = [], []
    for _ in range(2 * refresh + 2):
        states.append(buffer.state())
        batches.append(buffer.next_batch())
    for cut, state in enumerate(states):
        resumed = make(1)
        resumed.next_batch()
        resumed.restore(state)
        for expected in batches[cut:]:
            assert resumed.next_batch().equal(expected)


def test_too_small_a_buffer():
    with pytest.raises(SleaveError, match=r"`refresh_batches` \(= 3\) x batch size \(= 4 rows\).*\(= 11 rows\)"):
        RollingBuffer(Counting(), 11, refresh_batches=3, batch_size=4, seed=0)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_stored_ids_gives_every_row_once_per_epoch_however_it_is_read(chunk_sizes, reads):
    boundaries = [sum(chunk_sizes[:i]) for i in range(len(chunk_sizes) + 1)]
    ids = StoredIds(boundaries, seed=1).read(sum(reads))
    stream = StoredIds(boundaries, seed=1)
    assert torch.cat([stream.read(n) for n in reads]).equal(ids)
    for epoch in ids.split(boundaries[-1]):
        assert max(Counter(epoch.tolist()).values()) == 1
    whole = ids[: boundaries[-1]].tolist()
    if len(whole) == boundaries[-1]:
        chunks = [list(range(a, b)) for a, b in pairwise(boundaries)]
        found = [whole[whole.index(chunk[0]) : whole.index(chunk[0]) + len(chunk)] for chunk in chunks]
        assert found == chunks


def test_stored_ids_takes_the_chunks_in_another_order_every_epoch():
    stream = StoredIds(range(0, 101, 5), seed=0)
    first, second = stream.read(100).tolist(), stream.read(100).tolist()
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert first != sorted(first)
