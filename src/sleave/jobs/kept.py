"""Topics that were forgotten, kept until all of them are: a process that is killed loses one, which takes minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sleave.base.files import read_json, write_json
from sleave.unlearning.results import TopicResult


class KeptTopics:
    """Finished topics in a file of the run directory.

    Attributes:
        done: by name, those that were measured in the same way.
    """

    def __init__(self, file: Path, asked: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            file: where they are kept.
            asked: what decides the result of each.
        """
        self._file, self._asked = file, dict(asked)
        found = read_json(file) if file.is_file() else {}
        same = isinstance(found, dict) and found.get("asked") == self._asked
        try:
            topics = TypeAdapter(list[TopicResult]).validate_python(found["topics"] if same else [])
        except (KeyError, ValidationError):  # of another version
            topics = []
        self.done = {topic.topic: topic for topic in topics}

    def keep(self, topic: TopicResult) -> None:
        """Add one."""
        self.done[topic.topic] = topic
        write_json(self._file, {"asked": self._asked, "topics": [asdict(t) for t in self.done.values()]})

    def drop(self) -> None:
        """Now that the results have them all."""
        self._file.unlink(missing_ok=True)
