"""Reading ahead changes nothing but when it is read."""

import threading
import time

import pytest
import torch
from counting import Counting
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.activations.ahead import ReadAhead
from sleave.activations.buffer import RollingBuffer


class Slow(Counting):
    """Says when it begins to read after the first time, and then waits to be let go on."""

    def __init__(self):
        super().__init__()
        self.began, self.go_on = threading.Event(), threading.Event()

    def read(self, n):
        if self.reads:
            self.began.set()
            assert self.go_on.wait(10)
        return super().read(n)


@settings(deadline=None)
@given(st.lists(st.sampled_from([2, 3, "state", "restore", "settle"]), max_size=30))
def test_as_if_nothing_were_read_ahead(steps):
    plain, ahead = Counting(), ReadAhead(Counting(), 3, 2)
    kept = plain.state()
    for step in steps:
        if step == "state":
            kept = plain.state()
            assert ahead.state() == kept
        elif step == "restore":
            plain.restore(kept)
            ahead.restore(kept)
        elif step == "settle":
            ahead.settle()
        else:
            assert torch.equal(ahead.read(step), plain.read(step))


def test_it_reads_while_others_compute():
    stream = Slow()
    ahead = ReadAhead(stream, 2, 9)
    ahead.read(5)
    assert stream.began.wait(10)  # nobody has asked for more
    stream.go_on.set()
    assert ahead.read(2)[:, 0].tolist() == [5, 6]
    ahead.settle()
    assert stream.reads[:2] == [5, 2]


def test_it_stops_reading_when_nothing_more_is_wanted():
    stream = Slow()
    ahead = ReadAhead(stream, 60, 2)
    ahead.read(5)
    assert stream.began.wait(10)
    settling = threading.Thread(target=ahead.settle)
    settling.start()
    while ahead._wanted:  # until it has been told
        time.sleep(0.001)
    stream.go_on.set()
    settling.join(10)
    assert stream.reads == [5, 2]  # and not 30 times 2
    assert stream.next == 5  # where it is said to be


def test_batches_of_a_buffer_are_the_same_and_go_on():
    one, other = (
        RollingBuffer(stream, 20, refresh_batches=2, batch_size=4, seed=1)
        for stream in (Counting(), ReadAhead(Counting(), 8, 3))
    )
    for n in range(9):
        if n == 5:
            state = other.state()
            assert str(state) == str(one.state())
            other = RollingBuffer(ReadAhead(Counting(), 8, 3), 20, refresh_batches=2, batch_size=4, seed=2)
            other.restore(state)
        assert torch.equal(one.next_batch(), other.next_batch())


def test_an_error_is_raised_where_the_entries_were_wanted():
    class Ending(Counting):
        def read(self, n):
            if self.next > 4:
                raise ValueError("the text has ended")
            return super().read(n)

    ahead = ReadAhead(Ending(), 5, 9)
    assert len(ahead.read(5)) == 5
    with pytest.raises(ValueError, match="ended"):
        ahead.read(5)
    assert ahead.state() == {"next": torch.tensor(5)}
