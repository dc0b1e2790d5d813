"""Both pages in a real browser: nothing in a corpus runs, nothing is fetched, and what can be clicked works."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from made_runs import HOSTILE, heldout, make_audit, make_run, unlearning

from sleave import jobs
from sleave.report.page import page as audit_page

CHROMIUM = shutil.which("chromium")
if os.environ.get("SLEAVE_NEEDS_CHROMIUM"):
    assert CHROMIUM, "SLEAVE_NEEDS_CHROMIUM is set, and there is no Chromium"
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path (apt-get install chromium)"),
    pytest.mark.usefixtures("one_thread"),
]
NAMES = ("none", "<b>selective</b>", "full", "none_sparser")


@pytest.fixture(scope="module")
def audit():
    return make_audit(pairs=12)


@pytest.fixture(scope="module")
def files(audit, tmp_path_factory):
    """report.html of four runs, many.html of ten with many more steps, audit.html of the audit."""
    folder = tmp_path_factory.mktemp("pages")
    kinds = ("none", "selective", "full", "none")
    for n, (name, kind) in enumerate(zip(NAMES, kinds, strict=True)):
        results = {"heldout": heldout(30 + 5 * n, 0.3 + 0.02 * n, 0.5 - 0.1 * n), "unlearning": unlearning()}
        constraint = {"kind": kind} if kind == "none" else {"kind": kind, "weight": 0.1}
        sparsity = {"weight": 0.04 * (1 + (n == 3))}
        make_run(folder / "runs" / name, audit, results, constraint=constraint, sparsity=sparsity)
    jobs.report([folder / "runs" / name for name in NAMES], folder / "report.html")
    many = [make_run(folder / "many" / f"run{n}", audit, steps=3000) for n in range(10)]
    jobs.report(many, folder / "many.html")
    hostile = replace(audit, about={"autoencoder": HOSTILE[0]})
    (folder / "audit.html").write_text(audit_page(hostile), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, files):
    """Open a page; at the end, nothing was complained about, fetched or hacked."""
    opened = []

    def visit(name, **context):
        tab = browser.new_context(viewport={"width": 1300, "height": 900}, **context).new_page()
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((files / name).as_uri())
        opened.append((tab, said, asked, (files / name).as_uri()))
        return tab

    yield visit
    for tab, said, asked, own in opened:
        assert said == []
        assert asked == [own]
        assert tab.evaluate("window.hacked") is None
        tab.context.close()


def visible_rows(tab, table):
    return tab.locator(f"#{table} > tbody > tr:visible")


def column(tab, table, place):
    return tab.evaluate(
        "([t, n]) => [...document.querySelectorAll(`#${t} > tbody > tr`)].map((r) => Number(r.cells[n].dataset.value))",
        [table, place],
    )


@pytest.mark.parametrize("name", ["report.html", "audit.html"])
def test_every_text_of_a_hostile_corpus_is_shown_as_text(visit, name):
    tab = visit(name)
    buttons = tab.locator(".pair")
    assert buttons.count() > 20
    for n in range(buttons.count()):
        buttons.nth(n).evaluate("(button) => button.click()")
    shown = "".join(tab.locator("p.text").all_text_contents())
    for token in HOSTILE:
        assert token.replace("\n", "\u21b5") in shown
    assert tab.locator("img, main script, p.text svg").count() == 0
    assert tab.locator("h1").count() == 1


def test_markup_in_names_is_text(visit):
    assert "<b>selective</b>" in visit("report.html").locator("#runs-rows").inner_text()
    tab = visit("audit.html")
    assert tab.title() == tab.locator("h1").inner_text() == f"Audit of {HOSTILE[0]}"


def test_the_policy_stops_scripts_that_are_not_ours(browser, files):
    tab = browser.new_page()
    (files / "injected.html").write_text(
        (files / "report.html").read_text("utf-8").replace("</main>", "<script>window.hacked=9</script></main>"),
        "utf-8",
    )
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto((files / "injected.html").as_uri())
    assert tab.evaluate("window.hacked") is None
    assert any("Content Security Policy" in text for text in said)
    assert tab.locator("canvas").count() > 0
    tab.close()


def test_sorting(visit):
    tab = visit("report.html")
    header = tab.locator("#pairs-rows th", has_text="I/H").first
    place = header.evaluate("(th) => th.cellIndex")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    values = column(tab, "pairs-rows", place)
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 5
    header.locator("button").focus()
    tab.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(tab, "pairs-rows", place) == sorted(values)
    assert tab.locator("#pairs-rows [aria-sort]").count() == 1


def test_sorting_closes_open_texts_and_they_open_again(visit):
    tab = visit("report.html")
    pair = tab.locator("#pairs-rows .pair").first
    pair.click()
    assert pair.get_attribute("aria-expanded") == "true"
    assert tab.locator("tr.texts h3").count() == 2
    tab.locator("#pairs-rows .sort").nth(2).click()
    assert tab.locator("tr.texts").count() == 0
    assert tab.locator(".pair[aria-expanded=true]").count() == 0


def test_filtering(visit):
    tab = visit("report.html")
    all_rows = visible_rows(tab, "pairs-rows").count()
    field = tab.get_by_label("Filter").last
    count = tab.locator("#pairs output")
    assert (count.get_attribute("aria-live"), count.inner_text()) == ("polite", f"{all_rows} rows")
    field.fill("near-duplicate full")
    kept = visible_rows(tab, "pairs-rows")
    assert 0 < kept.count() < all_rows
    assert all("near-duplicate" in text and "full" in text for text in kept.all_inner_texts())
    assert count.inner_text() == f"{kept.count()} of {all_rows} rows"
    field.fill("window.hacked=1")  # is in no cell, but in the texts
    assert visible_rows(tab, "pairs-rows").count() > 0
    field.fill("nothing has this")
    assert visible_rows(tab, "pairs-rows").count() == 0
    field.fill("")
    assert visible_rows(tab, "pairs-rows").count() == all_rows
    tab.get_by_label("Filter").first.fill("fvu")
    assert 0 < visible_rows(tab, "figures-rows").count() < 10


def test_a_run_can_be_hidden(visit):
    tab = visit("report.html")
    rows, maps = visible_rows(tab, "pairs-rows").count(), tab.locator("canvas:visible").count()
    tab.get_by_label("full", exact=True).uncheck()
    left = visible_rows(tab, "pairs-rows")
    assert 0 < left.count() < rows
    assert tab.locator("#pairs output").inner_text() == f"{left.count()} of {rows} rows"
    assert tab.locator("canvas:visible").count() < maps
    assert tab.locator("#training g[data-of='2']:visible").count() == 0
    tab.get_by_label("full", exact=True).check()
    assert visible_rows(tab, "pairs-rows").count() == rows


def test_clusters_open_the_texts_of_all_their_members(visit, audit):
    tab = visit("audit.html")
    tab.locator("#clusters .pair").first.click()
    headings = tab.locator("tr.texts h3").all_inner_texts()
    assert headings == [f"Texts that {feature} fires most on" for feature in audit.clusters[0].members[:12]]
    assert tab.locator("tr.texts p.text").count() >= len(headings)


def test_heat_maps_are_drawn_and_tell_what_is_pointed_at(visit):
    tab = visit("report.html")
    shades = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    canvases = tab.locator("canvas")
    assert canvases.count() == 2 * (4 + 3)  # by each measure: every run's own; one before, and two after
    for n in range(canvases.count()):
        assert canvases.nth(n).evaluate(shades) > 10
        assert "features" in (canvases.nth(n).get_attribute("aria-label") or "")
    canvases.first.hover(position={"x": 40, "y": 60})
    assert "|r| about" in tab.locator(".at output").first.inner_text()


def test_dark_is_dark_and_heat_maps_follow(visit):
    tab = visit("report.html", color_scheme="light")
    drawn, ground = "document.querySelector('canvas').toDataURL()", "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground), tab.evaluate(drawn)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"before => {drawn} !== before", arg=light[1])  # the maps are drawn anew, a moment later
    dark = tab.evaluate(ground)
    assert light[0] == "rgb(250, 250, 248)"
    assert dark == "rgb(20, 23, 27)"


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("name", ["report.html", "audit.html"])
def test_nothing_is_wider_than_the_screen(visit, name, width):
    tab = visit(name)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.locator(".pair").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    if (name, width) == ("audit.html", 1300):  # every column of the widest table is seen
        box = tab.locator("#duplicates .wide")
        assert box.evaluate("(box) => box.scrollWidth <= box.clientWidth")


def test_a_reader_of_the_page_by_ear(visit):
    tab = visit("report.html")
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    unnamed = """() => [...document.querySelectorAll('main input, main button, svg[role=img], canvas, [role=region]')]
        .filter((e) => !e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim()).length"""
    assert tab.evaluate(unnamed) == 0
    assert tab.locator("table:not(:has(caption)):not(figure table)").count() == 0
    assert tab.locator("thead th:not([scope=col]), tbody th:not([scope=row])").count() == 0
    plots = tab.locator("figure:has(svg[role=img])")
    assert plots.count() > 5
    for n in range(plots.count()):
        assert plots.nth(n).locator("details table tbody tr").count() > 0


def test_ten_runs_open_soon(visit, files):
    began = time.perf_counter()
    tab = visit("many.html")
    tab.wait_for_load_state("load")
    seconds = time.perf_counter() - began
    size = (files / "many.html").stat().st_size
    print(f"10 runs: {size / 1e6:.2f} MB, {seconds:.2f} s")
    assert seconds < 10
    assert size < 6e6
