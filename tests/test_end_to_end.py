"""Gemma 3 270M from text to an autoencoder that SAELens opens, which does what sleave's does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gemma import gemma_recipe

from sleave import jobs
from sleave.activations.store import Store
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.files import load_tensors
from sleave.interop.reading import load


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the norm of the row it is in."""
    return float(((found - expected).abs().amax(dim=1) / expected.norm(dim=1).clamp(min=1e-30)).max())


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SAELens's own
@pytest.mark.parametrize("scaling", ["standardise", "norm"])
def test_gemma_to_saelens(tmp_path_factory, tmp_path, scaling):
    import sae_lens

    folder = tmp_path_factory.getbasetemp()
    recipe = gemma_recipe(folder, buffer={"scaling": scaling})
    (run,) = jobs.train(recipe, tmp_path / "run")
    x = torch.cat(list(Store.open(folder / "gemma").layer(8, "heldout").blocks())).float()
    assert len(x) > 300
    assert x.shape[1] == 640

    ours = load(run.path)
    theirs = sae_lens.SAE.load_from_disk(str(run.sae))
    assert theirs.cfg.metadata.model_name == "packaged:gemma3-270m"
    assert theirs.cfg.metadata.hook_name == "blocks.8.hook_resid_post"
    with torch.no_grad():
        assert theirs.encode(x).shape == (len(x), 128)
        assert float((ours.encode(x) > 0).float().mean()) > 0.01
        assert difference(theirs.encode(x), ours.encode(x)) < 1e-6
        assert difference(theirs.decode(ours.encode(x)), ours.decode(ours.encode(x))) < 1e-6
        assert difference(theirs(x), ours.decode(ours.encode(x))) < 1e-6

        # What was trained, from the checkpoint, on scaled rows: the same codes, in units of its decoder's raw norms.
        tensors, _ = load_tensors(run.checkpoint_file)
        trained = ReLUAutoencoder(640, 128).requires_grad_(False)
        trained.load_state_dict({n: tensors[f"sae.{n}"] for n in ("W_enc", "b_enc", "W_dec", "b_dec")})
        scaled = run.scaling()
        codes = trained.encode(scaled.apply(x))
        norms = (trained.W_dec / scaled.scale).norm(dim=1)
        # float32 leaves errors in proportion to x, which is thousands of times larger than a code just above zero.
        error = (ours.encode(x) - codes * norms).abs().amax(dim=1)
        assert float((error / x.norm(dim=1)).max()) < 1e-6
        assert difference(ours.decode(ours.encode(x)), scaled.invert(trained.decode(codes))) < 3e-6
        # In float64 only the rounding of the saved weights is left.
        exact = trained.double().encode((x.double() - scaled.shift.double()) * scaled.scale.double()) * norms.double()
        assert float((ours.double().encode(x.double()) - exact).norm() / exact.norm()) < 3e-7
    results = jobs.evaluate(run)["heldout"]
    assert results["rows"] == len(x)
    assert results["scaled"]["fvu"] > 0
    assert Path(run.sae, "cfg.json").is_file()


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SAELens's own
@pytest.mark.parametrize(
    "constraint",
    [
        {"kind": "mi", "refresh": 4, "compare": True, "warmup_steps": 0},
        {"kind": "mi", "refresh": 4, "estimator": "kde", "normalization": "none", "weight": 1e-9, "warmup_steps": 0},
        {"kind": "gradient", "refresh": 3},
        {"kind": "temporal", "refresh": 3, "window": 2},
        {"kind": "information", "refresh": 5, "top": 0.01},
    ],
    ids=["mi", "the paper's mi", "gradient", "temporal", "information"],
)
def test_gemma_with_mi_ortho_and_its_baselines(tmp_path_factory, tmp_path, constraint):
    import sae_lens

    folder = tmp_path_factory.getbasetemp()
    autoencoder = {"batch_norm": True, "dropout": 0.1}
    (run,) = jobs.train(gemma_recipe(folder, constraint=constraint, autoencoder=autoencoder), tmp_path / "run")
    last = list(run.metrics())[-1]
    assert last["constraint"] > 0
    assert 0 <= last["constraint_overlap"] < 1
    assert ("constraint_overlap_next" in last) == ("compare" in constraint)
    assert len(run.pairs()) == last["constraint_pairs"] > 0
    x = torch.cat(list(Store.open(folder / "gemma").layer(8, "heldout").blocks())).float()
    with torch.no_grad():
        codes = sae_lens.SAE.load_from_disk(str(run.sae)).encode(x)  # batch norm is folded in, dropout gone
        assert difference(codes, load(run.path).encode(x)) < 1e-6
        tensors, _ = load_tensors(run.checkpoint_file)
        g = tensors["sae.batch_norm.gamma"] / (tensors["sae.batch_norm.variance"] + 1e-5).sqrt()
        y = (run.scaling().apply(x) - tensors["sae.batch_norm.mean"]) * g + tensors["sae.batch_norm.beta"]
        trained = torch.relu(y @ tensors["sae.W_enc"] + tensors["sae.b_enc"])
        norms = (tensors["sae.W_dec"] / run.scaling().scale).norm(dim=1)
        assert float((codes - trained * norms).abs().amax() / x.norm(dim=1).max()) < 1e-5
    information = jobs.evaluate(run)["heldout"]["information"]
    assert information["peak"] >= information["p999"] > 0
