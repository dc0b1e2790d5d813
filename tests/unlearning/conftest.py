"""A tiny language model that has read a few texts of two topics, and an autoencoder of its residual stream."""

import pytest
import tiny
import torch
from two_topics import LAYER, make_passages

from sleave.activations.scaling import Scaling
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.language.settings import ModelSettings
from sleave.language.whole import WholeModel
from sleave.unlearning.dictionary import dictionary_of
from sleave.unlearning.documents import Documents
from sleave.unlearning.settings import UnlearningSettings
from sleave.unlearning.topics import read_topics


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tiny.make_tiny_model(tmp_path_factory.mktemp("model"), "llama")
    return WholeModel.load(ModelSettings(name=str(folder), dtype="float32", layers=(0,), device="cpu"))


@pytest.fixture(scope="session")
def settings():
    return UnlearningSettings(train=100, documents=8, probes=2)


@pytest.fixture(scope="session")
def questions(model, settings):
    return read_topics(model, make_passages(200), LAYER, settings)


@pytest.fixture(scope="session")
def sae(model):
    sae = ReLUAutoencoder(model.d_in, 30)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(30, model.d_in, generator=generator), dim=1))
        sae.W_enc.copy_(sae.W_dec.t())
        sae.b_enc.fill_(-0.3)
    return sae


@pytest.fixture(scope="session")
def dictionary(sae, questions, model):
    return dictionary_of(sae, questions.documents, Scaling.identity(model.d_in), questions.all_train)


@pytest.fixture(scope="session")
def documents(questions) -> Documents:
    return questions.documents
