"""Files of tasks and suites: rows, arrays, CSV, parquet, responses."""

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
RESPONSE = {"id": "001qa0", "split": "forget", "subtask": "bios", "expected": "a", "output": "b"}
RESPONSES: dict[str, tuple[Prepare, str]] = {
    "cut": (rows("r.jsonl", RESPONSE, '{"id'), "r.jsonl:2"),
    "a list": (rows("r.jsonl", RESPONSE, "[]"), "r.jsonl:2"),
    "no output": (rows("r.jsonl", {"id": "001qa0", "split": "forget", "subtask": "bios"}), "r.jsonl:1"),
    "output a number": (rows("r.jsonl", RESPONSE | {"output": 3}), "output"),
    "a split of nobody": (rows("r.jsonl", RESPONSE | {"split": "nobody"}), "split"),
    "a text for a number": (rows("r.jsonl", RESPONSE | {"logprob": "high"}), "r.jsonl:1"),
    "NaN": (
        rows(
            "r.jsonl",
            '{"id": "001qa0", "split": "forget", "subtask": "bios", "expected": "a", "output": "b", "logprob": NaN}',
        ),
        "r.jsonl:1",
    ),
    "a surrogate": (
        rows("r.jsonl", '{"id": "001qa0", "split": "forget", "subtask": "bios", "expected": "a", "output": "\\ud800"}'),
        "r.jsonl:1",
    ),
    "deep": (rows("r.jsonl", RESPONSE, "[" * 100_000), "r.jsonl:2"),
    "an unknown field": (rows("r.jsonl", RESPONSE | {"nothing": 1}), "nothing"),
    "empty": (written("r.jsonl", ""), "r.jsonl"),
    "UTF-16": (written("r.jsonl", json.dumps(RESPONSE).encode("utf-16")), "r.jsonl"),
    "binary": (written("r.jsonl", b"\xff\xfe\x00" * 1000), "r.jsonl"),
    "a pipe": (fifo("r.jsonl"), "r.jsonl"),
    "a device": (link("r.jsonl", "/dev/zero"), "r.jsonl"),
    "a loop": (link("r.jsonl", "r.jsonl"), "r.jsonl"),
    "an empty folder": (directory("r.jsonl"), "r.jsonl"),
    "a folder of other CSV": (both(directory("r.jsonl"), written("r.jsonl/a.csv", "x,y\n1,2\n")), "r.jsonl"),
    "a folder of cut CSV": (
        both(directory("r.jsonl"), written("r.jsonl/Task_1_forget.csv", 'id,input\n"1,2')),
        "r.jsonl",
    ),
    "missing": (directory("x"), "r.jsonl"),
}
MMLU: dict[str, tuple[Prepare, str]] = {
    "no dev": (written("m/test/law_test.csv", "q,a,b,c,d,A\n"), "law_dev.csv"),
    "no columns": (
        both(written("m/test/law_test.csv", "q,a\n"), written("m/dev/law_dev.csv", "q,a,b,c,d,A\n")),
        "law_test.csv",
    ),
    "an answer E": (
        both(written("m/test/law_test.csv", "q,a,b,c,d,E\n"), written("m/dev/law_dev.csv", "q,a,b,c,d,A\n")),
        "law_test.csv",
    ),
    "empty": (both(written("m/test/law_test.csv", ""), written("m/dev/law_dev.csv", "q,a,b,c,d,A\n")), "law"),
    "binary": (
        both(written("m/test/law_test.csv", b"\xff\x00\xfe"), written("m/dev/law_dev.csv", "q,a,b,c,d,A\n")),
        "law_test.csv",
    ),
    "a quote that stays open": (
        both(written("m/test/law_test.csv", '"q,a,b,c,d,A\n'), written("m/dev/law_dev.csv", "q,a,b,c,d,A\n")),
        "law_test.csv",
    ),
    "a pipe": (both(fifo("m/test/law_test.csv"), written("m/dev/law_dev.csv", "q,a,b,c,d,A\n")), "law_test.csv"),
    "nothing": (directory("m"), "evaluator.mmlu.data_dir"),
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


def suites() -> dict[str, tuple[list[str], Prepare | None, str]]:
    """Files that suites ask for."""
    return {
        "perplexity of nothing": (
            ["evaluator=perplexity", "evaluator.suites.perplexity.path=p.txt"],
            None,
            "p.txt",
        ),
        "perplexity of an empty text": (
            ["evaluator=perplexity", "evaluator.suites.perplexity.path=p.txt"],
            written("p.txt", ""),
            "p.txt",
        ),
        "perplexity of binary": (
            ["evaluator=perplexity", "evaluator.suites.perplexity.path=p.txt"],
            written("p.txt", b"\xff\xfe\xfa" * 99),
            "p.txt",
        ),
        "perplexity of a pipe": (
            ["evaluator=perplexity", "evaluator.suites.perplexity.path=p.txt"],
            fifo("p.txt"),
            "p.txt",
        ),
        "NQ of nothing": (["evaluator=nq_open", "evaluator.suites.nq_open.path=n.jsonl"], None, "n.jsonl"),
        "NQ of other fields": (
            ["evaluator=nq_open", "evaluator.suites.nq_open.path=n.jsonl"],
            rows("n.jsonl", {"q": 1}),
            "n.jsonl",
        ),
        "HaluEval of nothing": (["evaluator=halueval", "evaluator.suites.halueval.qa_path=h.json"], None, "h.json"),
        "HaluEval of other fields": (
            ["evaluator=halueval", "evaluator.suites.halueval.qa_path=h.json"],
            rows("h.json", {"q": 1}),
            "h.json",
        ),
        "lm-eval of an unknown task": (
            ["evaluator=lm_eval", "evaluator.suites.lm_eval.tasks=[no_such_task_at_all]"],
            None,
            "no_such_task_at_all",
        ),
        "refusals of nothing": (["method=idk_gd", "method.idk_file=i.txt"], None, "method.idk_file"),
        "refusals that are empty": (
            ["method=idk_gd", "method.idk_file=i.txt"],
            written("i.txt", "\n\n"),
            "method.idk_file",
        ),
        "refusals of binary": (["method=idk_gd", "method.idk_file=i.txt"], written("i.txt", b"\xff\xfe\xfa"), "i.txt"),
        "refusals of a pipe": (["method=idk_gd", "method.idk_file=i.txt"], fifo("i.txt"), "i.txt"),
        "TOFU without files": (["task=tofu", "task.data_dir=."], None, "forget10"),
        "TOFU of an unknown split": (["task=tofu", "task.split=forget99"], None, "task.split"),
        "TOFU with a template without a place": (
            ["task=tofu", "task.template=hello"],
            tofu_files(QUESTION),
            "task.template",
        ),
        "MUSE without files": (["task=muse", "task.data_dir=."], None, "task.data_dir"),
        "MUSE of nothing": (["task=muse"], None, "task.data_dir"),
        "real world without files": (["task=real_world", "task.data_dir=."], None, "forget"),
    }


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
    for name, (prepare, culprit) in RESPONSES.items():
        for how in ([], ["--dry-run"]):
            yield Case(
                name=f"responses: {name}{', plan' if how else ''}",
                arguments=["stages=[score]", "responses=r.jsonl", "logger=none", *how],
                names=[culprit],
                prepare=prepare,
            )
    for name, (prepare, culprit) in MMLU.items():
        yield Case(
            name=f"MMLU: {name}", arguments=["evaluator.mmlu.data_dir=m", "--dry-run"], names=[culprit], prepare=prepare
        )
    for name, (settings, prepare_, culprit) in OWN.items():
        arguments = ["task=custom", *settings, "--dry-run"]
        yield Case(name=f"own rows: {name}", arguments=arguments, names=[culprit], prepare=prepare_)
    for name, (arguments, prepare_, culprit) in suites().items():
        yield Case(
            name=name,
            arguments=[*arguments, "--dry-run"],
            names=[culprit],
            prepare=prepare_,
            needs_model="lm-eval" in name,
        )
    big = '{"id": "001qa0", "split": "forget", "subtask": "bios", "expected": "x", "output": "' + "a@" * 30_000 + '"}\n'
    yield Case(
        name="responses: an answer of 60,000 letters",
        arguments=["stages=[score]", "responses=r.jsonl", "logger=none", "evaluator=pii"],
        prepare=written("r.jsonl", big),
        accepted=True,
        needs_model=True,
    )
