"""A language model's activations: kept on disk, shuffled, scaled and handed out in batches. Knows no language model."""

from sleave.activations.buffer import RollingBuffer, RowStream, StoredIds
from sleave.activations.manifest import Split
from sleave.activations.scaling import Moments, Scaling, ScalingKind
from sleave.activations.settings import BufferSettings
from sleave.activations.source import ActivationSource, StoredSource
from sleave.activations.store import ChunkRows, LayerRows, Store, StoreWriter

__all__ = [
    "ActivationSource",
    "BufferSettings",
    "ChunkRows",
    "LayerRows",
    "Moments",
    "RollingBuffer",
    "RowStream",
    "Scaling",
    "ScalingKind",
    "Split",
    "Store",
    "StoreWriter",
    "StoredIds",
    "StoredSource",
]
