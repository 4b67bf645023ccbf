"""closer-look's continual TOFU: the same requests from TOFU's sets as from its own files, and what is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from helpers.refused import problems_by_place
from helpers.shared import DATA

from lume_run.common.records import TaskData
from lume_run.config.overrides import compose, conf_dir
from lume_run.pipeline.checks.config import check_config
from lume_run.tasks.question_sets.continual import FIRST_AUTHORS, KEPT_AUTHORS, REQUEST_SIZE, ContinualTofuTask
from lume_run.tasks.requests import forget_requests

AUTHORS = 200
QUESTIONS = 20
OTHERS = ("real_authors", "world_facts")
Rows = list[dict]


def author(number: int) -> Rows:
    return [{"question": f"What of {number} in {q}?", "answer": f"{number} wrote {q}."} for q in range(QUESTIONS)]


def authors(*numbers: int) -> Rows:
    return [row for number in numbers for row in author(number)]


def with_false_answers(rows: Rows) -> Rows:
    extra = {"paraphrased_answer": "Other.", "paraphrased_question": "Other?", "perturbed_answer": ["No."]}
    return [row | extra for row in rows]


def write(folder: Path, **sets: Rows) -> Path:
    folder.mkdir(exist_ok=True)
    sets |= {
        f"{name}_perturbed": [
            {"question": name, "answer": "Yes", "perturbed_answer": ["No"], "original_answer": "Yes."}
        ]
        for name in OTHERS
    }
    sets["retain_perturbed"] = with_false_answers(authors(*range(20)))
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def tofu(folder: Path) -> Path:
    """TOFU's sets in its schema, those of the forget sets beginning with the smallest."""
    order = (*range(198, AUTHORS), *range(190, 198), *range(180, 190))
    sets = {f"forget{share:02}": authors(*order[: 2 * share]) for share in (1, 5, 10)}
    perturbed = with_false_answers(sets["forget10"])
    return write(folder, **sets, retain90=authors(*range(180)), forget10_perturbed=perturbed)


def released(folder: Path, split: str) -> Path:
    """A form in the schema of closer-look's own files."""
    size = REQUEST_SIZE[split]
    rows = [
        {"task_id": str(number)} | row
        for number, first in enumerate(FIRST_AUTHORS[split], 1)
        for row in authors(*range(first, first + size))
    ]
    kept = {"forget01": "retain90", "forget05": "retain50", "forget10": "retain10"}[split]
    perturbed = with_false_answers(rows)
    return write(folder, **{split: rows, f"{split}_perturbed": perturbed, kept: authors(*range(KEPT_AUTHORS[split]))})


def load(folder: Path, split: str) -> TaskData:
    return ContinualTofuTask(name="tofu", data_dir=str(folder), split=split).load(0)


def documents(data: TaskData) -> tuple[list[frozenset[str]], set[str]]:
    return [request.documents for request in forget_requests(data, "auto")], {row.document for row in data.retain}


@pytest.mark.parametrize("split", FIRST_AUTHORS)
def test_both_sources_give_the_same_requests(split, tmp_path):
    """Each author in one request or kept, false answers of all forget rows only where closer-look's files are read."""
    cut, given = load(tofu(tmp_path / "tofu"), split), load(released(tmp_path / "released", split), split)
    assert documents(cut) == documents(given)
    requests, kept = documents(cut)
    assert [len(request) for request in requests] == [REQUEST_SIZE[split]] * len(FIRST_AUTHORS[split])
    assert len(kept) == KEPT_AUTHORS[split] and not kept & frozenset().union(*requests)
    assert len(kept) + sum(map(len, requests)) == AUTHORS
    assert [sum(bool(row.perturbed) for row in data.forget) for data in (cut, given)] == [400, len(given.forget)]
    assert cut.forget[0].answer == f"{FIRST_AUTHORS[split][0]} wrote 0."


def test_a_released_model_that_kept_more_authors_is_refused():
    """The recipes run on released targets, which bring a model retrained on 90 % of the authors."""
    for form in FIRST_AUTHORS:
        recipe = ["experiment=closer_look/continual_me_gd", f"task.split={form}", "model=tofu-llama-3.2-1b"]
        assert check_config(compose(recipe, [conf_dir()])).problems == []
    tasks = ["task=tofu_continual", "task.split=forget05", "sequence=in_turn", "model=tofu-llama-3.2-1b"]
    (problem,) = check_config(compose([*tasks, "method=me_gd"], [conf_dir()])).problems
    assert problem.what == "it kept 90 % of the authors, and forget05 forgets 50 %"
    assert problem.remedy.startswith("evaluator.retrained_model=null")


@cache
def real(split: str) -> TaskData:
    return load(DATA / "tofu", split)


@pytest.mark.skipif(not (DATA / "tofu").is_dir(), reason=f"TOFU is not at {DATA / 'tofu'}")
def test_requests_of_the_real_sets_nest():
    """The first request is TOFU's own set of that name, and 10 of forget01 are 2 of forget05 and 1 of forget10."""
    small, middle, large = (documents(real(split))[0] for split in FIRST_AUTHORS)
    for split, first in (("forget01", small[0]), ("forget05", middle[0]), ("forget10", large[0])):
        text = (DATA / "tofu" / f"{split}.jsonl").read_text(encoding="utf-8")
        answers = {json.loads(line)["answer"] for line in text.split("\n") if line}
        assert answers == {row.answer for row in real(split).forget if row.document in first}
    assert frozenset().union(*small) == middle[0] | middle[1] == large[0]
    assert middle[2] | middle[3] == large[1]
    assert len(frozenset().union(*large)) == 180


def test_sets_that_do_not_hold_all_authors_are_refused(tmp_path):
    folder = tofu(tmp_path)
    task = ContinualTofuTask(name="tofu", data_dir=str(folder), split="forget05")
    rows = (folder / "retain90.jsonl").read_text(encoding="utf-8").split("\n")
    (folder / "retain90.jsonl").write_text("\n".join(rows[:400]) + "\n", encoding="utf-8")
    (problems,) = problems_by_place(task, folder, ".jsonl").values()
    assert "there are 40 authors in retain90, forget01, forget05, forget10" in problems[0]
    (folder / "forget01.jsonl").unlink()
    (problem,) = task.check()
    assert problem.what.endswith("has no forget01")
