import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import huggingface_hub.errors
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny import SENTENCES, make_tiny_model

from sleave.base.errors import SleaveError
from sleave.language.contexts import Context, contexts
from sleave.language.corpora import Document
from sleave.language.model import HookedModel
from sleave.language.settings import ContextSettings, ModelSettings

KINDS = ["gpt2", "llama", "gpt_neox", "gemma2", "gemma3", "qwen2", "opt"]
TEXTS = [*SENTENCES, "Oil.", "The <eos> final" + SENTENCES[0]]


def load(folder: Path | str, *layers: int, dtype: str = "float32", compile: bool = False) -> HookedModel:
    how = {"dtype": dtype, "device": "cpu", "compile": compile}
    return HookedModel.load(ModelSettings(name=str(folder), layers=layers, **how))


def cut(model: HookedModel, length: int = 20) -> list[Context]:
    documents = [(i, Document(text, None, "test")) for i, text in enumerate(TEXTS)]
    return list(contexts(documents, model.tokenizer, ContextSettings(context_length=length)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [(0, 1), (0, 2, 3)])
def test_rows_are_those_of_the_whole_model_run_on_each_context_alone(tmp_path, kind, layers):
    folder = make_tiny_model(tmp_path, kind, num_layers=4)
    hooked = load(folder, *layers)
    cs = cut(hooked)
    rows = hooked.activations(cs)

    # The last of the hidden states has the final norm applied, so a hook takes the last block's output.
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    last = {}
    blocks = next(m for m in whole.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)
    blocks[3].register_forward_hook(
        lambda _m, _i, out: last.update(out=out if isinstance(out, torch.Tensor) else out[0])
    )
    expected = {layer: [] for layer in layers}
    for c in cs:
        with torch.no_grad():
            out = whole(torch.tensor([c.token_ids]), output_hidden_states=True)
        for layer in layers:
            hidden = last["out"] if layer == 3 else out.hidden_states[layer + 1]
            expected[layer].append(hidden[0, torch.tensor(c.keep)])
    assert list(rows) == list(layers)
    for layer in layers:
        assert rows[layer].shape == (sum(c.num_kept for c in cs), 16)
        torch.testing.assert_close(rows[layer], torch.cat(expected[layer]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of itself
def test_compiled_blocks_compute_the_same(tmp_path, capsys):
    folder = make_tiny_model(tmp_path, "gemma3")
    plain, compiled = load(folder, 0, 1), load(folder, 0, 1, compile=True)
    assert "compiled when the first batch is read" in capsys.readouterr().err
    cs = cut(plain)
    for batch in (cs[:4], cs[4:], cs[:1]):  # of other shapes
        for expected, rows in zip(plain.activations(batch).values(), compiled.activations(batch).values(), strict=True):
            torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compile", [True, False])
def test_no_compiler(llama, compile, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with (
        pytest.raises(SleaveError, match=r"`model.compile` \(= true\) needs a C\+\+ compiler")
        if compile
        else nullcontext()
    ):
        load(llama, 0, compile=compile)


def test_blocks_after_the_last_hooked_one_are_gone(tmp_path):
    folder = make_tiny_model(tmp_path, num_layers=4)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder)
    hooked = load(folder, 1)
    assert (hooked.num_layers, hooked.d_in, hooked.layers) == (4, 16, (1,))
    assert len(hooked._model.layers) == 2
    blocks = sum(p.numel() for p in whole.model.layers[2:].parameters())
    kept = sum(p.numel() for p in hooked._model.parameters())
    assert kept == sum(p.numel() for p in whole.model.parameters()) - blocks  # and no head


def test_what_it_says_of_itself(llama):
    hooked = load(llama, 0, 2)
    assert (hooked.name, hooked.revision, hooked.bos_id) == (str(llama), None, 1)
    assert hooked.device == torch.device("cpu")


def test_rows_come_in_the_models_dtype_and_can_be_trained_on(llama):
    hooked = load(llama, 1, dtype="bfloat16")
    rows = hooked.activations(cut(hooked))[1]
    assert rows.dtype == torch.bfloat16
    weight = torch.ones(16, requires_grad=True)
    (rows.float() @ weight).sum().backward()
    assert weight.grad is not None


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
def test_batches_hold_every_context_once_within_the_budget(lengths, budget):
    cs = [Context((0,) * n, (True,) * n, 0) for n in lengths]
    groups = HookedModel.batches(cs, budget)
    assert sorted(i for g in groups for i in g) == list(range(len(cs)))
    for group in groups:
        assert len(group) == 1 or max(lengths[i] for i in group) * len(group) <= budget


def test_layer_out_of_range(llama):
    with pytest.raises(SleaveError, match=r"`layers` \(=\[1, 7\]\) must be between 0 and 2"):
        load(llama, 1, 7)


@pytest.mark.parametrize("layers", [(), (3, 1), (1, 1), (-1,)])
def test_layers_are_checked(layers):
    with pytest.raises(ValueError, match="ascending and without repeats"):
        ModelSettings(name="x", layers=layers)


def test_context_longer_than_the_positions(llama):
    hooked = load(llama, 0)
    with pytest.raises(SleaveError, match=r"`context_length` \(=65\) must be at most 64"):
        hooked.activations([Context((5,) * 65, (True,) * 65, 0)])


def test_missing_folder_and_unknown_packaged_model():
    with pytest.raises(SleaveError, match=r"There is no folder `\./nowhere`"):
        load("./nowhere", 0)
    with pytest.raises(SleaveError, match="Did you mean `gemma3-270m`"):
        load("packaged:gemma3-270", 0)


def test_folder_without_model(tmp_path):
    with pytest.raises(SleaveError, match=r"no config\.json"):
        load(tmp_path, 0)


def test_pickled_weights_are_never_read(tmp_path):
    folder = make_tiny_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SleaveError, match="can run code"):
        load(folder, 0)


def test_truncated_weights(tmp_path):
    weights = make_tiny_model(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SleaveError, match="truncated or damaged"):
        load(tmp_path, 0)


def test_unknown_architecture(tmp_path):
    config = make_tiny_model(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "abacus"}))
    with pytest.raises(SleaveError, match="abacus"):
        load(tmp_path, 0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])  # each fails in its own way
def test_missing_tokenizer(tmp_path, kind):
    for file in make_tiny_model(tmp_path, kind).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(SleaveError, match="has no tokenizer"):
        load(tmp_path, 0)


def hub_error(name: str) -> Exception:
    kind: type[Exception] = getattr(huggingface_hub.errors, name)
    return kind.__new__(kind)  # without the HTTP response that they are otherwise made from


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("GatedRepoError", "gated: accept its terms"),
        ("RevisionNotFoundError", "no such revision"),
        ("RepositoryNotFoundError", "on the hub, or it is private"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
    ],
)
def test_hub_errors_are_explained(monkeypatch, name, says):
    def refuse(*_args, **_kwargs):
        raise OSError("wrapped as transformers does") from hub_error(name)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(SleaveError, match=says):
        HookedModel.load(ModelSettings(name="google/gemma-2-2b", revision="main", layers=(0,)))
