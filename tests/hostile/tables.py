"""Rows of one's own: JSON, CSV, parquet and text files that are other than their names say, or say strange things."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .case import Case, Prepare
from .files import both, directory, link, rows, written

SOUND = [{"question": f"Who is number {n}?", "answer": f"Number {n} is a baker."} for n in range(6)]
KEEP = rows("r.jsonl", *[{"question": f"Where is {n}?", "answer": f"In house {n}."} for n in range(6)])
HEAD = "question,answer\n"


def zipped() -> bytes:
    """A zip archive with one file, as a spreadsheet is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def parquet(name: str, make: Callable[[Any], dict[str, Any]]) -> Prepare:
    """A parquet file of the columns that `make` gives for pyarrow."""

    def prepare(folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(make(pyarrow)), path)

    return prepare


def two(answers: Sequence[Any] | Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    """Two questions, and a column of answers."""
    return lambda pa: {"question": ["a?", "b?"], "answer": answers(pa) if callable(answers) else answers}


JSON: dict[str, tuple[list[object], str]] = {
    "a question that is a number": ([*SOUND, {"question": 3, "answer": "b"}], "f.jsonl:7"),
    "a question that is a list": ([*SOUND, {"question": ["a"], "answer": "b"}], "f.jsonl:7"),
    "an answer that is true": ([*SOUND, {"question": "a", "answer": True}], "f.jsonl:7"),
    "an answer that is missing": ([*SOUND, {"question": "a"}], "f.jsonl:7"),
    "an answer of tabs": ([*SOUND, {"question": "a", "answer": "\t\n "}], "f.jsonl:7"),
    "an answer of joiners": ([*SOUND, {"question": "a", "answer": "\u200d\u2060\ufeff"}], "f.jsonl:7"),
    "a question that is empty": ([*SOUND, {"question": "", "answer": "b"}], "f.jsonl:7"),
    "a key twice": ([*SOUND, '{"question": "a", "answer": "b", "answer": "c"}'], "f.jsonl:7"),
    "NaN for an answer": ([*SOUND, '{"question": "a", "answer": NaN}'], "f.jsonl:7"),
    "half a letter in a key": ([*SOUND, '{"question": "a", "answer": "b", "\\ud800": 1}'], "f.jsonl:7"),
    "half a letter in an id": ([*SOUND, '{"question": "a", "answer": "b", "id": "\\udfff"}'], "f.jsonl:7"),
    "zeros in a text": ([*SOUND, {"question": "a\x00b", "answer": "c\x00"}], "f.jsonl:7"),
    "a number of 5,000 digits in a row": ([*SOUND, '{"question": "a", "answer": "b", "id": ' + "9" * 5000 + "}"], "7"),
    "two objects in a line": ([*SOUND, '{"question": "a", "answer": "b"} {"question": "c", "answer": "d"}'], "7"),
    "objects with commas": (['{"question": "a", "answer": "b"},', '{"question": "c", "answer": "d"}'], "f.jsonl:1"),
    "single quotes": (["{'question': 'a', 'answer': 'b'}"], "f.jsonl:1"),
    "comments": (["// rows", *SOUND], "f.jsonl:1"),
    "a text a line": (['"a"', '"b"'], "f.jsonl"),
    "an object around the rows": ([{"data": SOUND}], "task.columns"),
    "documents in lists": ([{**SOUND[0], "document": ["a"]}], "f.jsonl:1"),
    "false answers of numbers": ([{**SOUND[0], "perturbed_answer": [1, 2]}], "f.jsonl:1"),
    "false answers that are blank": ([{**SOUND[0], "perturbed_answer": ["", "b"]}], "f.jsonl:1"),
    "another wording in an object": ([{**SOUND[0], "paraphrase": {"a": "b"}}], "f.jsonl:1"),
    "a context that is a list": ([{**SOUND[0], "context": ["a"]}], "f.jsonl:1"),
}
CSV: dict[str, tuple[str | bytes, str]] = {
    "rows of other lengths": (HEAD + "a,b\nc\n", "f.csv:3"),
    "a quote in the middle": (HEAD + 'a,"b"c\n', "f.csv:2"),
    "zeros": (HEAD.encode() + b"a,b\x00\n", "f.csv"),
    "UTF-16 without a mark": ((HEAD + "a,b\n").encode("utf-16-le"), "f.csv"),
    "UTF-32": ((HEAD + "a,b\n").encode("utf-32"), "f.csv"),
    "Latin-1 in one row": (HEAD.encode() + b"a,b\ncaf\xe9,d\n", "f.csv"),
    "gzip": (gzip.compress(HEAD.encode()), "f.csv"),
    "zip": (zipped(), "f.csv"),
    "a spreadsheet's page": (b"<html><table><tr><td>question</td></tr></table></html>", "f.csv"),
    "names that are blank": (" , \na,b\n", "f.csv"),
    "nothing": ("", "f.csv"),
    "only a mark": (b"\xef\xbb\xbf", "f.csv"),
    "line feeds alone": ("\n\n\n", "f.csv"),
    "pipes between cells": ("question|answer\na|b\n", ""),
    "a cell of 20 MB": (HEAD + "a," + "b" * (2**24 + 1) + "\n", "f.csv"),
    "an answer that is blank": (HEAD + "a, \n", "f.csv:2"),
    "quotes that hide the rest": (HEAD + 'a,b\nc,"d\ne,f\ng,h\n', "f.csv"),
    "one column": ("question\na\nb\n", "task.columns"),
    "answers of numbers are texts": (HEAD + "a,1\nb,2\n", ""),
}
PARQUET: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "answers in lists": (two([["a"], ["b"]]), "f.parquet:row 1"),
    "answers in objects": (two([{"text": "a"}, {"text": "b"}]), "f.parquet:row 1"),
    "answers of decimals": (two(lambda pa: pa.array([1, 2], pa.decimal128(5, 2))), "f.parquet:row 1"),
    "answers of bytes": (two([b"a", b"\xff"]), "f.parquet:row 1"),
    "answers of times": (two(lambda pa: pa.array([0, 1], pa.timestamp("ns"))), "f.parquet:row 1"),
    "answers of nothing": (two([None, None]), "f.parquet:row 1"),
    "no rows": (lambda pa: {"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}, "f.parquet"),
    "no columns": (lambda pa: {}, "f.parquet"),
    "years beyond": (lambda pa: {**two(["a", "b"])(pa), "id": pa.array([2**60, 1], pa.timestamp("us"))}, "f.parquet"),
    "facts of bytes": (lambda pa: {**two(["a", "b"])(pa), "document": [b"\xff", b"a"]}, "f.parquet"),
}
FINE: dict[str, tuple[list[str], Prepare]] = {
    "from right to left": (
        ["task.forget=f.jsonl"],
        rows("f.jsonl", {"question": "من هو؟", "answer": "هو خباز في \u202eالقاهرة\u202c."}),
    ),
    "marks that join": (
        ["task.forget=f.jsonl"],
        rows("f.jsonl", {"question": "Who? e\u0301", "answer": "Ze\u0301 \u0928\u093f"}),
    ),
    "pictures": (["task.forget=f.jsonl"], rows("f.jsonl", {"question": "👩‍👩‍👧‍👦?", "answer": "🎹🏴‍☠️"})),
    "depth in a column that nobody reads": (
        ["task.forget=f.jsonl"],
        rows("f.jsonl", '{"question": "a", "answer": "b", "x": ' + "[" * 900 + "]" * 900 + "}"),
    ),
    "two answers to one question": (
        ["task.forget=f.jsonl"],
        rows("f.jsonl", SOUND[0], {**SOUND[0], "answer": "Number 0 is a smith."}),
    ),
    "two rows of one id": (["task.forget=f.jsonl"], rows("f.jsonl", {**SOUND[0], "id": "x"}, {**SOUND[1], "id": "x"})),
    "a column without a name": (["task.forget=f.csv"], written("f.csv", ",question,answer\n0,a,b\n1,c,d\n")),
    "one row": (["task.forget=f.jsonl"], rows("f.jsonl", SOUND[0])),
    "rows twice": (["task.forget=f.jsonl"], rows("f.jsonl", *SOUND, *SOUND)),
    "words of a dictionary": (
        ["task.forget=f.parquet"],
        parquet(
            "f.parquet",
            lambda pa: {
                "question": pa.array(["a?", "b?"]).dictionary_encode(),
                "answer": pa.array(["a", "b"]).dictionary_encode(),
            },
        ),
    ),
    "large texts in parquet": (
        ["task.forget=f.parquet"],
        parquet("f.parquet", two(lambda pa: pa.array(["a", "b"], pa.large_string()))),
    ),
    "line ends of Windows": (["task.forget=f.csv"], written("f.csv", "question,answer\r\na,b\r\nc,d\r\n")),
    "old line ends": (["task.forget=f.csv"], written("f.csv", "question,answer\ra,b\rc,d\r")),
    "a mark of order": (["task.forget=f.jsonl"], written("f.jsonl", "\ufeff" + json.dumps(SOUND[0]) + "\n")),
    "semicolons": (["task.forget=f.csv"], written("f.csv", "question;answer\na;b, c\n")),
    "a long row": (["task.forget=f.jsonl"], rows("f.jsonl", {"question": "a", "answer": "word " * 20_000})),
    "capitals": (["task.forget=f.csv"], written("f.csv", "QUESTION,Answer\na,b\n")),
    "a capital ending": (["task.forget=F.CSV"], written("F.CSV", "question,answer\na,b\n")),
    "a link": (["task.forget=l.jsonl"], both(rows("f.jsonl", *SOUND), link("l.jsonl", "f.jsonl"))),
    "line separators in a text": (
        ["task.forget=f.jsonl"],
        rows("f.jsonl", json.dumps({"question": "a\u2028b\u0085", "answer": "c\u2029d"}, ensure_ascii=False)),
    ),
}
SETTINGS: dict[str, tuple[list[str], Prepare, str]] = {
    "forget and retain in one file": (["task.retain=f.jsonl", "method=npo_gd"], rows("f.jsonl", *SOUND), "f.jsonl:1"),
    "rows held out that are forgotten": (
        ["task.holdout=h.jsonl"],
        both(rows("f.jsonl", *SOUND), rows("h.jsonl", SOUND[2])),
        "h.jsonl:1",
    ),
    "a retain file of nothing": (
        ["task.retain=e.jsonl"],
        both(rows("f.jsonl", *SOUND), written("e.jsonl", "")),
        "e.jsonl",
    ),
    "a folder with a folder": (["task.forget=d"], directory("d/inner"), "d"),
    "a folder with a damaged file": (
        ["task.forget=d"],
        both(rows("d/a.jsonl", *SOUND), rows("d/b.jsonl", "{")),
        "b.jsonl:1",
    ),
    "a folder of files with other columns": (
        ["task.forget=d"],
        both(rows("d/a.jsonl", *SOUND), rows("d/b.jsonl", {"x": "y", "z": "w"})),
        "b.jsonl:1",
    ),
    "a folder of empty texts": (["task.forget=d"], both(written("d/a.txt", ""), written("d/b.txt", "\n")), "a.txt"),
    "a folder of one binary text": (
        ["task.forget=d"],
        both(written("d/a.txt", "Ada lives in Bern now."), written("d/b.txt", b"\x89PNG\xff")),
        "b.txt",
    ),
    "a folder with a loop": (
        ["task.forget=d"],
        both(rows("d/a.jsonl", *SOUND), link("d/b.jsonl", "b.jsonl")),
        "b.jsonl",
    ),
    "more documents than there are": (["task.num_documents=50"], rows("f.jsonl", *SOUND), "task.num_documents"),
    "words of one": (["task.words=1"], rows("f.jsonl", *SOUND), "task.words"),
    "a template of nothing": (["task.template="], rows("f.jsonl", *SOUND), "task.template"),
    "a template with two places": (["task.template='{question} {question}'"], rows("f.jsonl", *SOUND), "task.template"),
    "a template of another place": (["task.template='{query}'"], rows("f.jsonl", *SOUND), "task.template"),
    "columns that are a list": (["task.columns=[a]"], rows("f.jsonl", *SOUND), "task.columns"),
    "facts that are a list": (["task.columns.facts=[a]"], rows("f.jsonl", *SOUND), "task.columns.facts"),
    "one column for two things": (["task.columns.prompt=answer"], rows("f.jsonl", *SOUND), "task.columns"),
    "chats of answers": (["task.columns.messages=answer"], rows("f.jsonl", *SOUND), "f.jsonl:1"),
    "a hub id of one word": (["task.forget=rows"], rows("f.jsonl", *SOUND), "task.forget"),
    "a hub id that is none": (["task.forget=no/such_rows:a:b"], rows("f.jsonl", *SOUND), "task.forget"),
    "a hub id of colons": (["task.forget=a:b:c:d:e"], rows("f.jsonl", *SOUND), "task.forget"),
    "a URL": (["task.forget=https://example.com/rows.csv"], rows("f.jsonl", *SOUND), "task.forget"),
    "a gzip of rows": (["task.forget=f.jsonl.gz"], written("f.jsonl.gz", gzip.compress(b"{}")), "f.jsonl.gz"),
    "no ending": (["task.forget=f"], rows("f", *SOUND), "task.forget"),
    "a list of files": (["task.forget=[f.jsonl,g.jsonl]"], rows("f.jsonl", *SOUND), "task.forget"),
    "a file twice": (["task.forget=[f.jsonl,f.jsonl]"], rows("f.jsonl", *SOUND), "f.jsonl:1"),
    "documents that nothing is about": (["task.documents=[Nobody]"], rows("f.jsonl", *SOUND), "task.documents"),
    "no documents": (["task.documents=[]"], rows("f.jsonl", *SOUND), "task.documents"),
    "wordings in no column": (["task.columns.rewordings=[q_*]"], rows("f.jsonl", *SOUND), "task.columns.rewordings"),
    "wordings of lists": (
        ["task.columns.rewordings=[other]"],
        rows("f.jsonl", {**SOUND[0], "other": ["a"]}),
        "f.jsonl:1",
    ),
    "rows within no list": (["task.columns.rows=[question]"], rows("f.jsonl", *SOUND), "f.jsonl:1"),
    "facts of lists": (
        ["task.columns.facts.town=town", "evaluator=pii"],
        rows("f.jsonl", {**SOUND[0], "town": ["a"]}),
        "f.jsonl:1",
    ),
}


def plan(*settings: str) -> list[str]:
    """The words of a plan over rows of one's own; later ones count."""
    given = [name.partition("=")[0] for name in settings]
    plain = {"task.forget": "f.jsonl", "method": "npo"}
    return [
        "task=custom",
        *settings,
        *(f"{name}={value}" for name, value in plain.items() if name not in given),
        "--dry-run",
    ]


def cases() -> Iterator[Case]:
    """Each as a plan."""
    for name, (entries, culprit) in JSON.items():
        yield Case(name=f"table: JSON: {name}", arguments=plan(), names=[culprit], prepare=rows("f.jsonl", *entries))
    for name, (text, culprit) in CSV.items():
        yield Case(
            name=f"table: CSV: {name}",
            arguments=plan("task.forget=f.csv"),
            names=[culprit],
            prepare=written("f.csv", text),
            accepted=not culprit,
            needs_model=not culprit,
        )
    for name, (make, culprit) in PARQUET.items():
        prepare = parquet("f.parquet", make)
        yield Case(
            name=f"table: parquet: {name}", arguments=plan("task.forget=f.parquet"), names=[culprit], prepare=prepare
        )
    for name, (settings, prepare, culprit) in SETTINGS.items():
        yield Case(name=f"table: {name}", arguments=plan(*settings), names=[culprit], prepare=both(KEEP, prepare))
    for name, (settings, prepare) in FINE.items():
        yield Case(
            name=f"table: {name} are fine", arguments=plan(*settings), prepare=prepare, accepted=True, needs_model=True
        )
