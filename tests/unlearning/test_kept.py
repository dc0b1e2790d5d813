"""A process that is killed loses at most the topic that it was at."""

import json

import pytest

from sleave.activations.scaling import Scaling
from sleave.jobs.kept import KeptTopics
from sleave.unlearning.forgetting import forget

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = {"unlearning": {"train": 100}}


class Killed(Exception):
    pass


def test_what_was_finished_is_not_done_again(sae, questions, settings, tmp_path):
    file = tmp_path / "unlearning.partial.json"
    asked = settings.model_copy(update={"controls": False})
    kept = KeptTopics(file, ASKED)

    def keep_one(topic):
        kept.keep(topic)
        raise Killed

    with pytest.raises(Killed):
        forget(sae, questions, Scaling.identity(sae.d_in), asked, kept.done, keep_one)
    again = KeptTopics(file, ASKED)
    assert list(again.done) == ["a"]
    assert again.done["a"] == kept.done["a"]  # configurations, intervals and all
    done = []
    topics = forget(sae, questions, Scaling.identity(sae.d_in), asked, dict(again.done), done.append)
    assert [t.topic for t in topics] == ["a", "b"]
    assert [t.topic for t in done] == ["b"]
    again.drop()
    assert not file.exists()


def test_topics_measured_in_another_way_are_not_taken(tmp_path):
    file = tmp_path / "unlearning.partial.json"
    file.write_text(json.dumps({"asked": {"unlearning": {"train": 20}}, "topics": [{"topic": "a"}]}))
    assert KeptTopics(file, ASKED).done == {}
    file.write_text(json.dumps({"asked": ASKED, "topics": [{"topic": "a"}]}))  # of another version
    assert KeptTopics(file, ASKED).done == {}
