"""The estimator: scikit-learn's own checks, known features found again, and what training does done by it too."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn
import torch
from scipy.sparse import csr_array, csr_matrix
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import sleave
from sleave import SparseAutoencoderEstimator
from sleave.base.errors import SleaveError

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("topk", "batch_topk", "matryoshka", "relu", "jumprelu", "gated")
FEATURES = 24


def truth(rows: int = 3000, columns: int = 16, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Rows that few features explain, and the features' directions (unit rows)."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(FEATURES, columns))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    acts = (rng.random((rows, FEATURES)) < share) * (0.5 + rng.random((rows, FEATURES)))
    return acts @ directions + 0.01 * rng.normal(size=(rows, columns)), directions


def estimator(**given) -> SparseAutoencoderEstimator:
    quick = {"d_sae": 48, "architecture": "relu", "constraint": "none", "sparsity_weight": 0.3}
    return SparseAutoencoderEstimator(**quick | {"steps": 50, "random_state": 0, "device": "cpu"} | given)


@parametrize_with_checks(
    [
        SparseAutoencoderEstimator(steps=20),
        SparseAutoencoderEstimator(steps=20, architecture="batch_topk"),
        SparseAutoencoderEstimator(steps=20, architecture="relu"),
    ]
)
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        # One check is skipped, aloud, where array_api_compat is not installed.
        warnings.simplefilter("ignore", sklearn.exceptions.SkipTestWarning)
        check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_features_that_made_the_rows(kind):
    X, directions = truth()
    weight = {"relu": 0.3, "gated": 0.3, "jumprelu": 0.1}.get(kind, 0)
    model = estimator(architecture=kind, k=2, sparsity_weight=weight, lr=3e-3, steps=600, batch_size=512).fit(X[:2500])
    components = model.components_ / np.linalg.norm(model.components_, axis=1, keepdims=True)
    # Matryoshka's first features are each to stand for several of these, which have no hierarchy.
    assert (components @ directions.T).max(axis=0).mean() > (0.85 if kind == "matryoshka" else 0.92)
    assert model.score(X[2500:]) > 0.8
    assert 0.5 < (model.transform(X[2500:]) > 0).sum(axis=1).mean() < 4


def test_a_constraint_lowers_the_strongest_correlations():
    X, _ = truth()

    def strongest(constraint):
        model = estimator(constraint=constraint, constraint_weight=1.0, settings={"constraint": constraint_settings})
        acts = model.set_params(steps=300, lr=3e-3).fit(X[:2500]).transform(X[2500:])
        unit = acts / np.maximum(np.linalg.norm(acts, axis=0), 1e-12)
        return np.sort((unit.T @ unit)[np.triu_indices(48, 1)])[-11:].mean(), model.score(X[2500:])

    constraint_settings = {}
    plain, before = strongest("none")
    constraint_settings = {"top": 0.01}
    apart, after = strongest("selective")
    assert apart < 0.8 * plain
    assert after > before - 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaling", ["standardise", "norm", "none"])
def test_the_fitted_autoencoder_is_of_rows_as_they_are(kind, scaling, tmp_path):
    X, _ = truth(rows=400)
    X = 3 + X * np.arange(1, 17)
    model = estimator(architecture=kind, k=3, scaling=scaling).fit(X)
    sae, x = model.autoencoder_, torch.from_numpy(X).float()
    acts = model.transform(X)
    assert (acts.shape, acts.dtype) == ((400, 48), np.float32)
    np.testing.assert_array_equal(acts, sae.encode(x).numpy())
    np.testing.assert_allclose(model.inverse_transform(acts), sae(x).numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(model.components_, sae.W_dec.numpy())
    oracle = r2_score(X, model.inverse_transform(acts), multioutput="variance_weighted")
    assert model.score(X) == pytest.approx(oracle, abs=1e-5)
    sleave.save(sae, tmp_path)
    assert (tmp_path / "cfg.json").is_file()


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_sparse_output_is_the_same_numbers(kind):
    X, _ = truth(rows=5000)  # more than are encoded at a time
    model = estimator(architecture=kind, k=3, steps=5).fit(X)
    acts, decoded = model.transform(X), model.inverse_transform(model.transform(X))
    sparse = model.set_params(sparse_output=True).transform(X)
    assert isinstance(sparse, csr_array)
    assert (sparse.dtype, sparse.nnz) == (np.float32, (acts != 0).sum())
    np.testing.assert_allclose(sparse.toarray(), acts, rtol=1e-6, atol=1e-6)
    for form in (sparse, csr_matrix(sparse), sparse.tocsc()):
        np.testing.assert_allclose(model.inverse_transform(form), decoded, rtol=1e-4, atol=1e-5)


def test_entries_of_sparse_codes_in_any_order():
    X, _ = truth(rows=50)
    model = estimator(d_sae=3).fit(X)
    codes = csr_array((np.array([2.0, 1.0, 1.5]), np.array([2, 0, 0]), np.array([0, 3])), shape=(1, 3))
    expected = model.inverse_transform([[2.5, 0, 2]])
    np.testing.assert_allclose(model.inverse_transform(codes), expected, rtol=1e-5, atol=1e-6)
    assert codes.indices.tolist() == [2, 0, 0]  # the caller's stays as it was


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_random_state_gives_the_same_to_the_bit(kind):
    X, _ = truth(rows=300)

    def fitted(state):
        sae = estimator(architecture=kind, k=3, random_state=state, batch_size=64).fit(X).autoencoder_
        return sae.state_dict()

    first, again, other = fitted(3), fitted(3), fitted(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["W_dec"], other["W_dec"])
    states = [fitted(np.random.RandomState(7)) for _ in range(2)]
    assert torch.equal(states[0]["W_dec"], states[1]["W_dec"])


def test_the_callers_random_numbers_are_left_alone():
    X, _ = truth(rows=100)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    estimator(settings={"autoencoder": {"dropout": 0.5}}).fit(X)
    assert torch.equal(torch.rand(3), expected)


def test_in_a_pipeline():
    X, _ = truth(rows=500)
    X = 100 + 50 * X
    pipeline = make_pipeline(StandardScaler(), estimator(scaling="none", steps=200, lr=3e-3))
    acts = pipeline.fit_transform(X)
    assert acts.shape == (500, 48)
    assert pipeline.score(X) > 0.5
    assert pipeline.inverse_transform(acts).shape == X.shape
    names = pipeline.get_feature_names_out()
    assert (len(names), names[0]) == (48, "sparseautoencoderestimator0")


def test_data_frames_in_and_out():
    pandas = pytest.importorskip("pandas")
    X, _ = truth(rows=100)
    frame = pandas.DataFrame(X, columns=[f"c{n}" for n in range(16)], index=range(100, 200))
    model = estimator(d_sae=5).fit(frame)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    out = model.set_output(transform="pandas").transform(frame)
    assert out.columns.tolist() == [f"sparseautoencoderestimator{n}" for n in range(5)]
    assert out.index.tolist() == list(frame.index)
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(frame.rename(columns={"c0": "other"}))


def test_grid_search_over_k_ends_at_the_most():
    X, _ = truth(rows=600, share=0.2)
    search = GridSearchCV(estimator(architecture="topk", steps=150, lr=3e-3), {"k": np.array([1, 8, 2])}, cv=2)
    search.fit(X)
    assert search.best_params_ == {"k": 8}
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] < scores[2] < scores[1]


def test_pickled_it_gives_the_same():
    X, _ = truth(rows=100)
    model = estimator(architecture="topk", k=2).fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 3), (40, 1), (3, 2)])
def test_few_rows_and_columns(kind, shape):
    X = np.random.default_rng(0).normal(size=shape)
    model = SparseAutoencoderEstimator(architecture=kind, constraint="none", steps=200, lr=1e-2, random_state=0).fit(X)
    assert model.transform(X).shape == (shape[0], 4 * shape[1])
    assert model.score(X) > 0.1  # something fires, and helps
    assert model.n_iter_ == 200


def test_defaults_follow_the_width():
    X = np.random.default_rng(0).normal(size=(300, 40))
    model = SparseAutoencoderEstimator(constraint="none", steps=1).fit(X)
    assert (model.autoencoder_.d_sae, model.autoencoder_.k) == (160, 5)


def test_settings_are_laid_over_the_arguments():
    X, _ = truth(rows=100)
    model = estimator(settings={"training": {"steps": 7}, "optimizer": {"schedule": "cosine"}}).fit(X)
    assert model.n_iter_ == 7


def test_progress_is_off_unless_asked_for(capsys):
    X, _ = truth(rows=100)
    estimator(steps=3).fit(X)
    assert "Fitting" not in "".join(capsys.readouterr())
    estimator(steps=3, verbose=True).fit(X)
    assert "Fitting: 3/3 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "top_k"}, r"`autoencoder.kind` \(= 'top_k'\) must be one of 'relu'"),
        ({"constraint": "some"}, r"`constraint.kind` \(= 'some'\) must be one of 'none'"),
        ({"scaling": "standardize"}, r"`scaling` \(= 'standardize'\) must be one of 'none', 'norm', 'standardise'"),
        ({"d_sae": 1}, r"`autoencoder.d_sae` \(= 1\): .* greater than or equal to 2"),
        ({"steps": 0}, r"`training.steps` \(= 0\)"),
        ({"batch_size": 0}, r"`batch_size` \(= 0\) must be a whole number, at least 1"),
        ({"architecture": "topk", "k": 49}, r"k \(= 49\) must be at most d_sae \(= 48\)"),
        ({"settings": {"training": {"step": 3}}}, "`training.step` is not a setting. Did you mean `steps`?"),
    ],
)
def test_arguments_that_are_not_allowed(given, message):
    X, _ = truth(rows=20)
    with pytest.raises(SleaveError, match=message):
        estimator(**given).fit(X)


def test_codes_of_another_width():
    X, _ = truth(rows=20)
    model = estimator().fit(X)
    for codes in (np.ones((2, 47)), csr_array(np.ones((2, 47)))):
        with pytest.raises(SleaveError, match="width 47, but this autoencoder has d_sae = 48"):
            model.inverse_transform(codes)


def test_rows_that_are_all_the_same_have_no_score():
    X, _ = truth(rows=20)
    with pytest.raises(SleaveError, match="without any variance"):
        estimator().fit(X).score(np.ones((4, 16)))


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import sleave; from sleave import *; "
    done = subprocess.run(
        [sys.executable, "-c", code + "sleave.SparseAutoencoderEstimator"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "SleaveError: SparseAutoencoderEstimator needs scikit-learn" in done.stderr
    assert "pip install 'sleave[sklearn]'" in done.stderr
