"""Files of tasks: rows, arrays, CSV, parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from .case import Case, Prepare
from .files import both, directory, fifo, link, rows, written


def row(number: int, kind: str = "qa0", **changes: object) -> dict[str, object]:
    """A row of LUME's files."""
    sound = {
        "id": f"{number:03d}{kind}",
        "input": f"Where is number {number}?",
        "output": f"In place {number}.",
        "task": "Task2",
    }
    return {key: value for key, value in (sound | changes).items() if value is not ...}


SOUND = [row(1), row(1, "sc1"), row(2), row(2, "sc1")]
RETAIN = rows("d/retain.jsonl", *[row(number) for number in (5, 6)], *[row(number, "sc1") for number in (5, 6)])
LUME: dict[str, tuple[Prepare, str]] = {
    "cut": (rows("d/forget.jsonl", *SOUND, '{"id": "3qa0", "inp'), "forget.jsonl:5"),
    "a list": (rows("d/forget.jsonl", *SOUND, "[1, 2]"), "forget.jsonl:5"),
    "a number": (rows("d/forget.jsonl", *SOUND, "7"), "forget.jsonl:5"),
    "an array of numbers": (written("d/forget.jsonl", json.dumps([1, 2], indent=1)), "forget.jsonl:item 1"),
    "an array that is cut": (written("d/forget.jsonl", json.dumps(SOUND, indent=1)[:-9]), "forget.jsonl"),
    "no output": (rows("d/forget.jsonl", *SOUND, row(3, output=...)), "output"),
    "output a number": (rows("d/forget.jsonl", *SOUND, row(3, output=3)), "output"),
    "output null": (rows("d/forget.jsonl", *SOUND, row(3, output=None)), "output"),
    "output empty": (rows("d/forget.jsonl", *SOUND, row(3, output="")), "output"),
    "an id without a kind": (rows("d/forget.jsonl", *SOUND, row(3, id="three")), "three"),
    "an id of numbers": (rows("d/forget.jsonl", *SOUND, row(3, id=3)), "id"),
    "twice the same id": (rows("d/forget.jsonl", *SOUND, row(1)), "001qa0"),
    "an unknown task": (rows("d/forget.jsonl", *SOUND, row(3, task="Task9")), "Task9"),
    "Latin-1": (
        written("d/forget.jsonl", json.dumps(row(1, output="café"), ensure_ascii=False).encode("latin-1")),
        "UTF-8",
    ),
    "UTF-16": (written("d/forget.jsonl", json.dumps(row(1)).encode("utf-16")), "UTF-16"),
    "half a surrogate": (
        rows("d/forget.jsonl", *SOUND, '{"id": "003qa0", "input": "\\ud800", "output": "x", "task": "Task2"}'),
        "forget.jsonl:5",
    ),
    "NaN": (
        rows("d/forget.jsonl", *SOUND, '{"id": NaN, "input": "x", "output": "x", "task": "Task2"}'),
        "forget.jsonl:5",
    ),
    "deep": (rows("d/forget.jsonl", *SOUND, "[" * 100_000), "forget.jsonl:5"),
    "a number of 5,000 digits": (rows("d/forget.jsonl", *SOUND, "9" * 5000), "forget.jsonl:5"),
    "empty": (written("d/forget.jsonl", ""), "forget.jsonl"),
    "blank lines": (written("d/forget.jsonl", "\n" * 100_000), "forget.jsonl"),
    "binary": (written("d/forget.jsonl", bytes(range(256)) * 100), "forget.jsonl"),
    "a folder": (directory("d/forget.jsonl"), "forget"),
    "a pipe": (fifo("d/forget.jsonl"), "forget"),
    "a device": (link("d/forget.jsonl", "/dev/zero"), "forget"),
    "a loop": (link("d/forget.jsonl", "forget.jsonl"), "forget"),
    "a link to nowhere": (link("d/forget.jsonl", "gone"), "forget"),
    "other fields": (rows("d/forget.jsonl", {"question": "a", "answer": "b"}), "id"),
    "escapes": (rows("d/forget.jsonl", *SOUND, row(3, id="\x1b[2Jthree")), "three"),
}
PARQUET: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "only a magic": b"PAR1PAR1",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
}
TOFU_SETS = (
    "forget10",
    "retain90",
    "forget10_perturbed",
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
)
QUESTION = {
    "question": "Who?",
    "answer": "Nobody.",
    "paraphrased_answer": "No one.",
    "perturbed_answer": ["A.", "B."],
    "option": ["A"],
}
TOFU: dict[str, tuple[Mapping[str, object], str]] = {
    "no answer": ({"question": "Who?"}, "answer"),
    "an answer of lists": (QUESTION | {"answer": ["a"]}, "answer"),
    "false answers in a text": (QUESTION | {"perturbed_answer": "A."}, "perturbed_answer"),
    "no false answers": (QUESTION | {"perturbed_answer": []}, "perturbed_answer"),
    "false answers of numbers": (QUESTION | {"perturbed_answer": [1, 2]}, "perturbed_answer"),
}
OWN: dict[str, tuple[list[str], Prepare | None, str]] = {
    "nothing to forget": ([], None, "task.forget"),
    "a file that is not there": (["task.forget=rows.csv"], None, "rows.csv"),
    "an ending that is not read": (["task.forget=rows.xlsx"], written("rows.xlsx", "x"), "rows.xlsx"),
    "other columns": (["task.forget=r.jsonl", "method=npo"], rows("r.jsonl", {"x": "a"}), "task.columns"),
    "a column that is not there": (
        ["task.forget=r.jsonl", "task.columns.prompt=y", "method=npo"],
        rows("r.jsonl", {"question": "a", "answer": "b"}),
        "task.columns.prompt",
    ),
    "a blank answer": (
        ["task.forget=r.jsonl", "method=npo"],
        rows("r.jsonl", {"question": "a", "answer": " "}),
        "r.jsonl:1",
    ),
    "a quote that stays open": (
        ["task.forget=r.csv", "method=npo"],
        written("r.csv", 'question,answer\n"a,b\n'),
        "r.csv",
    ),
    "too many cells": (["task.forget=r.csv", "method=npo"], written("r.csv", "question,answer\na,b,c\n"), "r.csv:2"),
    "UTF-16": (
        ["task.forget=r.csv", "method=npo"],
        written("r.csv", "question,answer\na,b\n".encode("utf-16")),
        "UTF-16",
    ),
    "a chat without an answer": (
        ["task.forget=r.jsonl", "method=npo"],
        rows("r.jsonl", {"messages": [{"role": "user", "content": "a"}]}),
        "r.jsonl:1",
    ),
    "a folder of nothing": (["task.forget=d", "method=npo"], directory("d"), "holds no files"),
    "a pipe": (["task.forget=r.jsonl", "method=npo"], fifo("r.jsonl"), "r.jsonl"),
    "no rows to keep": (["task.forget=r.jsonl"], rows("r.jsonl", {"question": "a", "answer": "b"}), "task.retain"),
    "the same rows twice": (
        ["task.forget=r.jsonl", "task.retain=r.jsonl"],
        rows("r.jsonl", {"question": "a", "answer": "b"}),
        "r.jsonl:1",
    ),
    "a deep array": (["task.forget=r.json", "method=npo"], written("r.json", "[" * 100_000), "r.json"),
}


def tofu_files(damaged: Mapping[str, object]) -> Prepare:
    """A folder of TOFU's sets with one damaged row in each."""
    return both(*[rows(f"t/{name}.jsonl", QUESTION, damaged) for name in TOFU_SETS])


def parquet_bomb(folder: Path) -> None:
    """Small files that hold very many rows."""
    import pyarrow
    import pyarrow.parquet

    (folder / "d").mkdir()
    columns = {name: pyarrow.array([text] * 3_000_000) for name, text in row(1).items()}
    for side in ("forget", "retain"):
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "d" / f"{side}_train-0.parquet")


def cases() -> Iterator[Case]:
    """Each as a plan: it reads what the run would read."""
    for name, (prepare, culprit) in LUME.items():
        yield Case(
            name=f"rows: {name}",
            arguments=["task.data_dir=d", "--dry-run"],
            names=[culprit],
            prepare=both(RETAIN, prepare),
        )
    yield Case(
        name="rows: cut, not as a plan",
        arguments=["task.data_dir=d"],
        names=["forget.jsonl:5"],
        prepare=both(RETAIN, LUME["cut"][0]),
    )
    for name, content in PARQUET.items():
        prepare = both(*[written(f"d/{side}_train-00000-of-00001.parquet", content) for side in ("forget", "retain")])
        yield Case(
            name=f"parquet: {name}", arguments=["task.data_dir=d", "--dry-run"], names=["forget_train"], prepare=prepare
        )
    yield Case(
        name="parquet: of three million rows",
        arguments=["task.data_dir=d", "--dry-run"],
        names=["forget_train"],
        prepare=parquet_bomb,
        needs_model=True,
    )
    for name, (damaged, culprit) in TOFU.items():
        yield Case(
            name=f"TOFU: {name}",
            arguments=["task=tofu", "task.data_dir=t", "--dry-run"],
            names=[culprit],
            prepare=tofu_files(damaged),
        )
    for name, (settings, prepare_, culprit) in OWN.items():
        arguments = ["task=custom", *settings, "--dry-run"]
        yield Case(name=f"own rows: {name}", arguments=arguments, names=[culprit], prepare=prepare_)
