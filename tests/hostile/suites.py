"""Files that suites read: responses, MMLU, texts, questions, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator

from .case import Case, Prepare
from .data import QUESTION, tofu_files
from .files import both, directory, fifo, link, rows, written

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
        "HaluEval's dialogue without its instruction": (
            ["evaluator=halueval", "evaluator.suites.halueval.dialogue_path=h.json"],
            rows("h.json", {"dialogue_history": "q", "right_response": "a", "hallucinated_response": "b"}),
            "dialogue_instruction=FILE",
        ),
        "NQ with too few rows to draw from": (
            [
                "evaluator=nq_open",
                "evaluator.suites.nq_open.path=n.jsonl",
                "evaluator.suites.nq_open.shots_path=n.jsonl",
            ],
            rows("n.jsonl", {"question": "q", "answer": ["a"]}),
            "fewer than the 5 worked examples",
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


def cases() -> Iterator[Case]:
    """Each as a plan; responses as a run too."""
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
