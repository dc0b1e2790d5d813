"""Training draws scaled rows of the store, every one of them, and can be put back to any batch."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from toy_store import D_IN, MODEL

from sleave.activations.settings import BufferSettings
from sleave.activations.source import ActivationSource, StoredSource
from sleave.activations.store import Store
from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors, save_tensors


def make_source(store: Store, **changes) -> StoredSource:
    given = {"scaling_kind": "norm", "batch_size": 4, "buffer_rows": 12, "refresh_batches": 2, "seed": 0} | changes
    return StoredSource(store, 8, **given)


def raw_rows(store: Store) -> torch.Tensor:
    return torch.cat(list(store.layer(8).blocks())).float()


def test_batches_are_scaled_rows_of_the_store(make_store):
    store = make_store(dtype="bfloat16")
    source = make_source(store, scaling_kind="standardise")
    assert isinstance(source, ActivationSource)
    assert (source.d_in, source.num_train_rows) == (D_IN, 21)
    raw = raw_rows(store)
    batch = source.next_batch()
    assert batch.dtype == torch.float32
    assert batch.shape == (4, D_IN)
    distance = torch.cdist(source.scaling.invert(batch), raw).min(dim=1).values
    torch.testing.assert_close(distance, torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(source.scaling.apply(raw).var(0, correction=0), torch.ones(D_IN))


def test_one_epoch_sees_every_row(make_store):
    store = make_store()
    source = make_source(store, scaling_kind="none", batch_size=7, buffer_rows=21, refresh_batches=3)
    for _ in range(2):
        epoch = torch.cat([source.next_batch() for _ in range(3)])
        assert torch.equal(*(x[x[:, 0].argsort()] for x in (epoch, raw_rows(store))))


def test_a_buffer_larger_than_the_store_spans_the_store(make_store):
    source = make_source(make_store(), buffer_rows=10_000, refresh_batches=24)
    batches = torch.cat([source.next_batch() for _ in range(5)])
    assert len(batches.unique(dim=0)) == 20
    source.next_batch()


def test_fewer_rows_than_a_batch(make_store):
    with pytest.raises(SleaveError, match=r"has 21 training rows, fewer than one batch \(= 22 rows\)\. Lower buffer"):
        make_source(make_store(), batch_size=22, buffer_rows=44)


def test_restored_at_any_batch_it_continues_to_the_bit(make_store, tmp_path):
    store = make_store()
    source = make_source(store)
    states, batches = [], []
    for _ in range(12):
        states.append(source.state())
        batches.append(source.next_batch())
    for cut, state in enumerate(states):
        save_tensors(tmp_path / "state.safetensors", state)
        resumed = make_source(store, seed=0)
        resumed.restore(load_tensors(tmp_path / "state.safetensors")[0])
        assert all(resumed.next_batch().equal(expected) for expected in batches[cut:])


def test_a_sample_is_always_the_same_and_disturbs_nothing(make_store):
    store = make_store()
    source, undisturbed = make_source(store), make_source(store)
    sample = source.sample(10)
    assert len(sample.unique(dim=0)) == 10
    assert source.next_batch().equal(undisturbed.next_batch())
    assert source.sample(10).equal(sample)
    assert source.next_batch().equal(undisturbed.next_batch())
    assert source.sample(50).shape == (50, D_IN)


def test_heldout_rows_are_raw_and_in_order(make_store):
    store = make_store(dtype="bfloat16")
    batches = list(make_source(store).heldout(4))
    assert [len(b) for b in batches] == [4, 4, 1]
    assert batches[0].dtype == torch.float32
    assert torch.cat(batches).equal(torch.cat(list(store.layer(8, "heldout").blocks())).float())


def test_metadata_is_in_the_words_of_saelens(make_store):
    metadata = make_source(make_store()).metadata
    assert metadata == {**MODEL, "hook_name": "blocks.8.hook_resid_post", "hook_layer": 8}


def test_rows_that_are_not_finite(make_store):
    store = make_store(chunks=1)
    file = store.path / "chunks/00000/train/layer_08.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")  # the last value becomes NaN
    source = make_source(Store.open(store.path, verify=False), batch_size=7, buffer_rows=7, refresh_batches=1)
    with pytest.raises(SleaveError, match=r"Layer 8 of .* training row 6 \(1 of 7 rows drawn\). The store was altered"):
        source.next_batch()


def test_settings():
    assert BufferSettings().buffer_contexts == 2048
    with pytest.raises(ValidationError, match=r"refresh_batches \(= 100\) x batch_contexts \(= 32\) must be at most"):
        BufferSettings(refresh_batches=100)
