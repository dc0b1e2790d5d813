"""The page is whole in itself, says what the audit found, and no text of a document or a path becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from planted import activations, trained, with_copies

from sleave.activations.rows import Origin, Rows
from sleave.auditing.audit import audit_rows
from sleave.report.columns import MEMBERS, members, sections
from sleave.report.page import page
from sleave.report.screen import screen_tables

pytestmark = pytest.mark.usefixtures("one_thread")
NASTY = ["</script><script>alert(1)</script>", "<!--", "\u2028", "&amp;", "\"'", "<b>", "\n", "]]>", "\ufffd", "ü"]
PATH = 'runs/<i>"a" & b</i>'


@pytest.fixture(scope="module")
def audit():
    x = activations(2000)
    sae = with_copies(trained("topk"), torch.arange(20), cosine=0.95)
    place = torch.arange(2000)
    rows = Rows(2000, x.shape[1], lambda size: iter(x.split(size)), Origin(place % 10, place // 40, place % 40))
    return audit_rows(sae, rows, pairs=8, token_texts=lambda ids: [NASTY[i] for i in ids], about={"autoencoder": PATH})


class Reader(HTMLParser):
    """Every element with its attributes and the text right in it; checks that tags are closed in order."""

    VOID = ("meta", "br")

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.elements = [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in self.VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.elements[self.open[-1][1]][2] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e[0] == tag and attributes.items() <= e[1].items()]


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def shown(audit):
    return read(page(audit))


def test_it_needs_nothing_else(audit, shown):
    for tag, attributes, _ in shown.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp", page(audit))


def test_texts_are_data_not_markup(audit, shown):
    assert len(shown.all("script")) == 2
    (data,) = shown.all("script", type="application/json")
    contexts = json.loads(data[2])
    assert contexts == json.loads(json.dumps(audit.to_dict()["contexts"]))
    tokens = {token for found in contexts.values() for context in found for token in context["tokens"]}
    assert tokens == set(NASTY)
    assert "alert" not in "".join(text for tag, _, text in shown.elements if tag != "script" or "id" not in _)
    assert shown.all("title")[0][2] == shown.all("h1")[0][2] == f"Audit of {PATH}"
    assert shown.all("i") == []


def test_every_finding_is_there(audit, shown):
    buttons = [(b[1]["data-a"], b[1]["data-b"]) for b in shown.all("button", **{"class": "pair"})]
    expected = [tuple(map(str, s.features(f))) for s in sections(audit) if s.features for f in s.findings]
    assert buttons == expected
    assert len(buttons) >= 32  # three rankings, and duplicates
    assert {feature for pair in buttons for feature in pair} == {str(f) for f in audit.contexts}
    values = [float(cell[1]["data-value"]) for cell in shown.all("td") if "data-value" in cell[1]]
    assert [values[0], values[4]] == [audit.near_duplicates[0].pair.information, audit.near_duplicates[0].pair.decoder]
    text = " ".join(e[2] for e in shown.elements)
    for section in sections(audit):
        assert section.title in text
        assert shown.all("section", id=section.name)
    assert f"8 of {audit.summary.near_duplicates}" in text
    assert f"{audit.summary.fvu:.4f}" in text
    bars = sum(len(h.counts) for h in audit.histograms.values())
    assert len(shown.all("rect")) == bars


def test_without_texts_and_without_findings(audit):
    bare = read(page(replace(audit, contexts={}, near_duplicates=(), splits=(), absorptions=(), clusters=())))
    assert bare.all("button", **{"class": "pair"}) == []
    assert [e[2] for e in bare.all("p", **{"class": "none"})].count("None.") == 4
    assert len(bare.all("table")) == 3


def test_the_script_asks_for_what_the_page_has(audit):
    """Names that the script relies on: without a browser here, at least that they are there."""
    text = page(audit)
    for name in ('id="contexts"', 'class="pair"', "data-a=", "data-b=", 'aria-expanded="false"', "data-value="):
        assert name in text
    assert {"tokens", "positions", "codes", "peak"} <= audit.to_dict()["contexts"].popitem()[1][0].keys()


def test_tables_on_screen(audit):
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as captured:
        for table in screen_tables(audit):
            console.print(table)
    text = captured.get()
    assert f"Audit of {PATH}" in text
    assert f"Near-duplicates (8 of {audit.summary.near_duplicates})" in text
    first = audit.near_duplicates[0]
    assert re.search(rf"{first.pair.i} +│ +{first.pair.j} +│ +{first.pair.information:.4f}", text)
    assert "codes and encoders" in page(audit)  # there is room on the page
    assert max(map(len, text.splitlines())) <= 80 or len(str(PATH)) > 60
    assert ("Suspects of splitting" in text) == bool(audit.splits)


def test_a_large_cluster_names_the_first(audit):
    cluster = replace(audit.clusters[0], members=tuple(range(MEMBERS + 3)))
    assert members(cluster).endswith(", 11 and 3 more")
    assert members(replace(cluster, members=(4, 7))) == "4, 7"
