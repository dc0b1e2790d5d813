"""Other libraries, imported without what they need for other things, and in spite of what they warn of meanwhile.

dictionary_learning imports nnsight for its buffer of activations, and sparsify's trainer imports schedulefree; neither
is used by what is tested here, and nnsight would bring much else. So an empty module stands in for nnsight, and
sparsify's package is entered past its __init__, which imports the trainer.
"""

import importlib.util
import sys
import warnings
from types import ModuleType

nnsight = ModuleType("nnsight")
nnsight.LanguageModel = object  # type: ignore[attr-defined]
sys.modules.setdefault("nnsight", nnsight)

if "sparsify" not in sys.modules:
    spec = importlib.util.find_spec("sparsify")
    assert spec is not None, "eai-sparsify is not installed: make .venv/test"
    sys.modules["sparsify"] = ModuleType("sparsify")
    sys.modules["sparsify"].__path__ = spec.submodule_search_locations or []

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dictionary_learning.dictionary as dictionaries
    import dictionary_learning.trainers as dictionary_trainers
    import dictionary_learning.trainers.matryoshka_batch_top_k as matryoshka
    import dictionary_learning.trainers.top_k as top_k
    import dictionary_learning.training as dictionary_training
    import dictionary_learning.utils as dictionary_utils
    import sae_lens
    import sae_lens.saes.jumprelu_sae
    import sae_lens.saes.sae
    import sparsify.config as sparsify_config
    import sparsify.sparse_coder as sparse_coder

__all__ = [
    "dictionaries",
    "dictionary_trainers",
    "dictionary_training",
    "dictionary_utils",
    "matryoshka",
    "sae_lens",
    "sparse_coder",
    "sparsify_config",
    "top_k",
]
