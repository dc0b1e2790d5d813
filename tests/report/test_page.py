"""The page is whole in itself, says what the audit found, and no text of a document or a path becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
from html_reader import read
from made_runs import HOSTILE, make_audit

from sleave.auditing.results import Audit
from sleave.base.errors import SleaveError
from sleave.report.columns import MEMBERS, named, sections
from sleave.report.page import page
from sleave.report.screen import screen_tables

pytestmark = pytest.mark.usefixtures("one_thread")
PATH = 'runs/<i>"a" & b</i>'


@pytest.fixture(scope="module")
def audit():
    return replace(make_audit(), about={"autoencoder": PATH})


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
    (texts,) = json.loads(data[2])["texts"]
    assert texts.keys() == {str(feature) for feature in audit.contexts}
    for feature, found in texts.items():
        for context, shown_one in zip(audit.contexts[int(feature)], found, strict=True):
            assert (shown_one["tokens"], shown_one["peak"]) == (list(context.tokens), context.peak)
            for other, codes in shown_one["codes"].items():
                assert codes == pytest.approx(context.codes[int(other)], rel=5e-3)
    tokens = {token for found in texts.values() for context in found for token in context["tokens"]}
    assert tokens == set(HOSTILE)
    assert "hacked" not in "".join(text for tag, _, text in shown.elements if tag != "script" or "id" not in _)
    assert shown.all("title")[0][2] == shown.all("h1")[0][2] == f"Audit of {PATH}"
    assert shown.all("i") == []


def test_the_policy_names_our_script_and_style_by_their_hashes(shown):
    (policy,) = (e[1]["content"] for e in shown.all("meta") if "http-equiv" in e[1])
    for element in (shown.all("script")[1], shown.all("style")[0]):
        digest = base64.b64encode(hashlib.sha256(element[2].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert [attributes for _, attributes, _ in shown.elements if "style" in attributes] == []


def test_every_finding_is_there(audit, shown):
    buttons = [tuple(map(int, b[1]["data-features"].split())) for b in shown.all("button", **{"class": "pair"})]
    expected = [s.features(f)[:MEMBERS] for s in sections(audit) for f in s.findings]
    assert buttons == expected
    assert len(buttons) >= 40  # three rankings, duplicates and their clusters
    assert {feature for pair in buttons for feature in pair} == set(audit.contexts)
    values = [float(cell[1]["data-value"]) for cell in shown.all("td") if "data-value" in cell[1]]
    assert [values[0], values[4]] == [audit.near_duplicates[0].pair.information, audit.near_duplicates[0].pair.decoder]
    text = " ".join(e[2] for e in shown.elements)
    for section in sections(audit):
        assert section.title in text
        assert shown.all("section", id=section.name)
    assert f"8 of {audit.summary.near_duplicates}" in text
    assert f"{audit.summary.fvu:.4f}" in text
    bars = sum(len(h.counts) for name, h in audit.histograms.items() if name != "correlation")
    assert len(shown.all("rect")) == bars


def test_without_texts_and_without_findings(audit):
    bare = read(page(replace(audit, contexts={}, near_duplicates=(), splits=(), absorptions=(), clusters=())))
    assert bare.all("button", **{"class": "pair"}) == []
    assert [e[2] for e in bare.all("p", **{"class": "none"})].count("None.") == 4
    assert len([t for t in bare.all("table") if "id" in t[1]]) == 3


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
    assert re.search(rf"{first.pair.i}, {first.pair.j} +│ +{first.pair.information:.4f}", text)
    assert "codes and encoders" in page(audit)  # there is room on the page
    assert max(map(len, text.splitlines())) <= 80 or len(str(PATH)) > 60
    assert ("Suspects of splitting" in text) == bool(audit.splits)


def test_a_large_cluster_names_the_first():
    assert named(range(MEMBERS + 3)).endswith(", 11 and 3 more")
    assert named((4, 7)) == "4, 7"


def test_an_audit_comes_back_from_json(audit):
    assert Audit.from_dict(json.loads(json.dumps(audit.to_dict()))) == audit


@pytest.mark.parametrize("changes", [{"strong": None}, {"summary": {}}, {"contexts": {"x": []}}])
def test_what_is_no_audit_is_refused(audit, changes):
    with pytest.raises(SleaveError, match=rf"not an audit as this version writes it: `{next(iter(changes))}"):
        Audit.from_dict(audit.to_dict() | changes)
