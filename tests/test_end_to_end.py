"""Gemma 3 270M from text to an autoencoder that SAELens opens, which does what sleave's does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sleave import jobs
from sleave.activations.store import Store
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.saving import load
from sleave.base.files import load_tensors
from sleave.recipe import recipe_from


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
    recipe = recipe_from(
        {
            "model": {"name": "packaged:gemma3-270m", "layers": [8], "device": "cpu"},
            "corpus": [{"kind": "packaged", "name": "ag_news"}],
            "harvest": {
                "store": str(folder / "gemma"),
                "max_tokens": 3000,
                "heldout_fraction": 0.2,
                "max_norm_ratio": 10,
            },
            "buffer": {"batch_contexts": 2, "buffer_contexts": 16, "refresh_batches": 4, "scaling": scaling},
            "autoencoder": {"d_sae": 128},
            "training": {"steps": 10, "precision": "float32", "device": "cpu"},
        },
        {},
        where="the test",
    )
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
        trained = SparseAutoencoder(640, 128).requires_grad_(False)
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
    results = jobs.evaluate(run)["evaluation"]
    assert results["rows"] == len(x)
    assert results["scaled"]["fvu"] > 0
    assert Path(run.sae, "cfg.json").is_file()
