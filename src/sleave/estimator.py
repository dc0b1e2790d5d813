"""A sparse autoencoder with scikit-learn's manners, for those who have a matrix and no recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from numbers import Integral
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from sleave.activations.scaling import Moments, Scaling, ScalingKind
from sleave.autoencoder.folding import fold
from sleave.autoencoder.initialisation import NUM_SAMPLES
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.settings import ReLUSettings, TopKSettings
from sleave.base.errors import SleaveError, check_one_of
from sleave.base.progress import progress
from sleave.base.settings import Precision, parse
from sleave.codes.codes import Codes, as_codes
from sleave.evaluation.reconstruction import Reconstruction
from sleave.recipe import merged
from sleave.training.checkpoint import Progress
from sleave.training.loop import advance, begin, note
from sleave.training.settings import RunSettings

try:
    from scipy.sparse import csr_array, issparse, vstack
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise SleaveError(
        "SparseAutoencoderEstimator needs scikit-learn 1.6 or newer, which is not installed. "
        "Run: pip install 'sleave[sklearn]'."
    ) from error

_K_SPARSE: list[type[TopKSettings]] = [TopKSettings, *TopKSettings.__subclasses__()]

ROWS = 4096  # that are encoded at a time
FEATURES_PER_COLUMN = 4
COLUMNS_PER_K = 8
MOST_K = 32
HAVE_K = {kind.model_fields["kind"].default for kind in _K_SPARSE}

Matrix = Any  # whatever scikit-learn takes: arrays, lists, data frames


class SparseAutoencoderEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learns to write the rows of a matrix as sums of few features each, by a sparse autoencoder.

    What is trained is what `sleave train` trains, by the same steps; only the batches are the matrix's rows, in a new
    random order each time round. Rows, codes and reconstructions are float32.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = (rng.random((500, 12)) * (rng.random((500, 12)) < 0.1)) @ rng.normal(size=(12, 6))
    >>> model = SparseAutoencoderEstimator(d_sae=24, k=3, constraint="none", steps=300, random_state=0).fit(X)
    >>> model.transform(X).shape, model.components_.shape
    ((500, 24), (24, 6))
    >>> bool(model.score(X) > 0.8)
    True

    Args:
        d_sae: how many features; None: four for each column.
        architecture: `topk`, `batch_topk`, `matryoshka`, `relu`, `jumprelu` or `gated`.
        k: how many features fire on a row, where the architecture says (the first three; on average, but for `topk`);
            None: one for every eight columns, at least 1 and at most 32.
        sparsity_weight: what the other three's L1 or L0 norm is multiplied by.
        constraint: what keeps features apart: `none`, `informed`, `selective`, `full`, `mi`, `gradient`,
            `temporal`, `information` or `decoder`.
        constraint_weight: what it is multiplied by; None: that kind's default.
        scaling: what rows go through before training: `standardise` each column, divide all by one number (`norm`), or
            `none`. It is folded in: `autoencoder_` reads rows as they are.
        steps: how many updates.
        batch_size: rows in an update, or all there are, if these are fewer.
        lr: learning rate.
        precision: of the matrix products in training: `float32`, `bfloat16`, `float16`, or `auto` (bfloat16 where the
            device has instructions for it).
        device: where training runs: `auto` (a GPU where there is one), `cpu`, `cuda`, ... The result is on the CPU.
        settings: whatever else a recipe's sections `autoencoder`, `sparsity`, `constraint`, `optimizer` and `training`
            can say, nested, such as {"constraint": {"top": 0.01}}; laid over the arguments above. There are no
            checkpoints and trackers.
        sparse_output: `transform` returns a scipy CSR array instead of a dense one.
        verbose: show a progress bar.
        random_state: of initialisation and batches. The same integer gives the same weights to the bit, on the same
            machine's CPU with as many threads.

    Attributes:
        autoencoder_: the fitted `SparseAutoencoder`; reads rows as they are, and `sleave.save` writes it.
        components_: (d_sae, n_features_in_) the features' directions, its decoder's rows.
        n_features_in_: how many columns there are.
        feature_names_in_: their names, if they had any.
        n_iter_: updates done.
    """

    def __init__(
        self,
        d_sae: int | None = None,
        *,
        architecture: str = "topk",
        k: int | None = None,
        sparsity_weight: float = 0.04,
        constraint: str = "informed",
        constraint_weight: float | None = None,
        scaling: ScalingKind = "standardise",
        steps: int = 1000,
        batch_size: int = 1024,
        lr: float = 3e-3,
        precision: Precision = "float32",
        device: str = "auto",
        settings: Mapping[str, Any] | None = None,
        sparse_output: bool = False,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.d_sae = d_sae
        self.architecture = architecture
        self.k = k
        self.sparsity_weight = sparsity_weight
        self.constraint = constraint
        self.constraint_weight = constraint_weight
        self.scaling = scaling
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.precision = precision
        self.device = device
        self.settings = settings
        self.sparse_output = sparse_output
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Matrix, y: Any = None) -> SparseAutoencoderEstimator:
        """Train the autoencoder.

        Args:
            X: (n_samples, n_features), at least 2 rows.
            y: nothing; there because scikit-learn gives one.

        Raises:
            SleaveError: arguments that are not allowed, all of them in one message; the loss is not finite.
            ValueError: X is not a matrix of finite numbers (scikit-learn's own message).
        """
        X = validate_data(self, X, dtype=np.float32, ensure_min_samples=2)
        settings = self._run_settings(*X.shape)
        moments = Moments.empty(X.shape[1])
        for rows in _blocks(X):
            moments.update(rows)
        scaling = Scaling.from_moments(moments, self.scaling)
        # What begins and trains runs sets torch's own seed, which the caller has other uses for.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            sae = self._trained(X, settings, scaling)
        self.autoencoder_ = fold(sae, scaling.shift, scaling.scale)
        self.n_iter_ = settings.training.steps
        return self

    def transform(self, X: Matrix) -> Any:
        """The codes of some rows: (n_samples, d_sae) float32, an array or, with `sparse_output`, a CSR array.

        Raises:
            ValueError: X is not a matrix of finite numbers, or of another width (scikit-learn's own message).
        """
        check_is_fitted(self)
        blocks = _blocks(validate_data(self, X, dtype=np.float32, reset=False))
        if self.sparse_output:
            return vstack([_csr(as_codes(self.autoencoder_.codes(rows))) for rows in blocks], format="csr")
        return np.concatenate([self.autoencoder_.encode(rows).numpy() for rows in blocks])

    def inverse_transform(self, X: Matrix) -> Float32[np.ndarray, "n_samples n_features"]:
        """The rows that codes stand for.

        Args:
            X: (n_samples, d_sae) codes, dense or sparse.

        Raises:
            SleaveError: there are not d_sae columns.
            ValueError: not a matrix of finite numbers (scikit-learn's own message).
        """
        check_is_fitted(self)
        acts = check_array(X, accept_sparse="csr", dtype=np.float32)
        given = _codes(acts) if issparse(acts) else torch.from_numpy(np.array(acts))
        decoded: np.ndarray = self.autoencoder_.decode(given).numpy()
        return decoded

    def score(self, X: Matrix, y: Any = None) -> float:
        """Explained variance of some rows, 1 - FVU, over all columns together: 1 at best, 0 for the mean.

        Raises:
            SleaveError: the rows are all the same.
            ValueError: as `transform`.
        """
        check_is_fitted(self)
        result = Reconstruction(self.autoencoder_.d_in)
        for rows in _blocks(validate_data(self, X, dtype=np.float32, reset=False)):
            result.update(rows, self.autoencoder_(rows))
        return result.compute().explained_variance

    @property
    def components_(self) -> Float32[np.ndarray, "d_sae n_features"]:
        """The features' directions."""
        directions: np.ndarray = self.autoencoder_.W_dec.numpy()
        return directions

    @property
    def _n_features_out(self) -> int:
        """How many names `get_feature_names_out` gives."""
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _run_settings(self, rows: int, columns: int) -> RunSettings:
        check_one_of("scaling", self.scaling, get_args(ScalingKind))
        if not isinstance(self.batch_size, Integral) or self.batch_size < 1:
            raise SleaveError(f"`batch_size` (= {self.batch_size!r}) must be a whole number, at least 1.")
        if not isinstance(self.settings or {}, Mapping):
            raise SleaveError(f"`settings` (= {self.settings!r}) must be nested dictionaries, as a recipe has them.")
        d_sae = FEATURES_PER_COLUMN * columns if self.d_sae is None else self.d_sae
        # At the usual rate a feature would begin dead where there are few rows.
        rate = max(ReLUSettings.model_fields["firing_rate"].default, min(3 / rows, 0.5))
        values: dict[str, Any] = {
            "seed": int(check_random_state(self.random_state).randint(2**31)),
            "autoencoder": {"kind": self.architecture, "d_sae": d_sae, "firing_rate": rate},
            "sparsity": {"weight": self.sparsity_weight},
            "constraint": {"kind": self.constraint},
            "optimizer": {"lr": self.lr},
            "training": {"steps": self.steps, "precision": self.precision, "device": self.device},
        }
        if self.architecture in HAVE_K:
            values["autoencoder"]["k"] = min(MOST_K, -(-columns // COLUMNS_PER_K)) if self.k is None else self.k
        if self.constraint_weight is not None and self.constraint != "none":
            values["constraint"]["weight"] = self.constraint_weight
        return parse(RunSettings, merged(values, self.settings or {}), where=type(self).__name__)

    def _trained(self, X: np.ndarray, settings: RunSettings, scaling: Scaling) -> SparseAutoencoder:
        draw = np.random.default_rng(settings.seed)
        most = max(NUM_SAMPLES, settings.autoencoder.d_sae)
        sample = draw.choice(len(X), min(len(X), most), replace=False)
        stepper = begin(settings, scaling.apply(torch.from_numpy(X[sample])))
        done, steps = Progress.none(stepper), settings.training.steps
        batches = _batches(X, min(self.batch_size, len(X)), draw)
        with progress("Fitting", steps, "steps") if self.verbose else nullcontext(_unseen) as shown:
            while done.step < steps:
                x = scaling.apply(next(batches)).to(stepper.device)
                shown(1, note(advance(settings, stepper, done, x)))
        return stepper.sae.eval()


def _unseen(amount: float, text: str) -> None:
    """What shows progress where none is to be shown."""


def _batches(X: np.ndarray, size: int, draw: np.random.Generator) -> Iterator[Tensor]:
    """All rows in a random order, again and again; what does not fill a batch is left out that time."""
    while True:
        order = draw.permutation(len(X))
        for first in range(0, len(X) - size + 1, size):
            yield torch.from_numpy(X[order[first : first + size]])


def _blocks(X: np.ndarray) -> Iterator[Tensor]:
    """All rows in order; copied, since torch takes no array that is read-only."""
    return (torch.from_numpy(X[first : first + ROWS].copy()) for first in range(0, len(X), ROWS))


def _csr(codes: Codes) -> csr_array:
    return csr_array((codes.value.numpy(), codes.feature.numpy(), codes.start.numpy()), shape=codes.shape)


def _codes(acts: csr_array) -> Codes:
    acts = acts.copy()
    acts.sum_duplicates()  # which also puts each row's features in ascending order
    start, feature = (torch.from_numpy(a.astype(np.int64)) for a in (acts.indptr, acts.indices))
    return Codes(acts.shape[1], start, feature, torch.from_numpy(acts.data))
