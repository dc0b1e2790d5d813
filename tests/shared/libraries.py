"""The libraries that we exchange files with, imported without what they need for other things.

dictionary_learning imports nnsight for its buffer of activations, and sparsify's trainer imports schedulefree; neither is
used by what is tested here, and nnsight would bring much else. So an empty module stands in for nnsight, and sparsify's
package is entered past its __init__, which imports the trainer.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType


def _without_its_init(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None, f"{name} is not installed: make .venv/test"
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package


nnsight = ModuleType("nnsight")
nnsight.LanguageModel = object  # type: ignore[attr-defined]
sys.modules.setdefault("nnsight", nnsight)
if "sparsify" not in sys.modules:
    _without_its_init("sparsify")

with warnings.catch_warnings():  # theirs are not ours to mend
    warnings.simplefilter("ignore")
    import dictionary_learning.dictionary as dictionaries  # noqa: F401
    import dictionary_learning.trainers as dictionary_trainers  # noqa: F401
    import dictionary_learning.trainers.matryoshka_batch_top_k as matryoshka  # noqa: F401
    import dictionary_learning.trainers.top_k as top_k  # noqa: F401
    import dictionary_learning.training as dictionary_training  # noqa: F401
    import dictionary_learning.utils as dictionary_utils  # noqa: F401
    import sae_lens  # noqa: F401
    import sparsify.config as sparsify_config  # noqa: F401
    import sparsify.sparse_coder as sparse_coder  # noqa: F401
