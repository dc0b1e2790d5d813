"""Several processes that read text together make the store that one makes."""

import torch
from small import content, make_material, small_recipe, write_recipe
from torchrun import torchrun

from sleave import jobs
from sleave.base.files import load_tensors


def test_two_processes_make_and_mend_the_same_store(tmp_path):
    material = make_material(tmp_path)
    alone = jobs.harvest(small_recipe(material, harvest={"store": str(tmp_path / "alone")}))
    together = tmp_path / "together"
    recipe = write_recipe(tmp_path / "recipe.toml", material, harvest={"store": str(together)})
    for _ in range(2):
        done = torchrun(2, "-m", "sleave", "harvest", recipe)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Kept in") == 1  # one of them tells
        assert content(together) == content(alone.path)
        files = sorted(together.rglob("*.safetensors"))
        assert len(files) > 8
        files[len(files) // 2].write_bytes(b"damaged")


def test_live_rows_are_read_together(tmp_path):
    """Two processes train from the model itself what one does."""
    material = make_material(tmp_path)
    recipe = write_recipe(
        tmp_path / "recipe.toml",
        {**material, "layer": 2, "harvest": {k: v for k, v in material["harvest"].items() if k != "store"}},
    )
    (alone,) = jobs.train(recipe, tmp_path / "alone")
    done = torchrun(2, "-m", "sleave", "train", recipe, "--out", tmp_path / "together")
    assert done.returncode == 0, done.stderr
    for name in ("b_enc", "W_dec"):
        a, b = (
            load_tensors(run / "checkpoint.safetensors")[0][f"sae.{name}"]
            for run in (alone.path, tmp_path / "together")
        )
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
