"""RWKU: real files where they are, layouts, targets, prompts, malformed rows, config."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.refused import problems_by_place
from helpers.shared import DATA

from lume_run.common.errors import ConfigError
from lume_run.common.records import Example, Kind, Split
from lume_run.config.overrides import compose, conf_dir
from lume_run.pipeline.checks.config import check_config
from lume_run.tasks.rwku.files import rwku_folder
from lume_run.tasks.rwku.task import RwkuTask

RELEASED = DATA / "rwku"
needs_data = pytest.mark.skipif(not RELEASED.is_dir(), reason=f"the real data set is not at {RELEASED}")
TARGETS = ("Ann Lee", "Bo Ek, Count of Oz", "50 Ice")


def rwku(folder: Path, **options) -> RwkuTask:
    return RwkuTask(name="rwku", data_dir=str(folder), **options)


def question(target: str, level: str, kind: str, **more: str) -> dict:
    return {"query": f"{kind} {level}?", "answer": "Yes", "level": level, "type": kind, "subject": target} | more


def sets() -> dict[str, list[dict]]:
    """A small data set by name, two rows or so a target in each set."""
    kinds = ("affirmative suffix", "incontext learning", "cross-lingual (French)")
    shots = [{"question": "What?", "choices": ["1", "2", "3", "4"], "answer": 1}]
    every = [{"subject": target} for target in TARGETS]
    return {
        "intro": [{"target": target, "intro": f"Please forget {target}."} for target in TARGETS],
        "forget_level1": [question(target, "1", "cloze") for target in TARGETS for _ in range(2)],
        "forget_level2": [question(target, "2", "simple question") for target in TARGETS],
        "forget_level3": [question(target, "3", kind) for target in TARGETS for kind in kinds],
        "neighbor_level1": [question(target, "1", "cloze", neighbor="Cy") for target in TARGETS],
        "neighbor_level2": [question(target, "2", "simple question", neighbor="Cy") for target in TARGETS],
        "positive": [{"id": "0", "text": f"{row['subject']} was born."} | row for row in every],
        "passage": [{"text": f"{row['subject']} in Wikipedia."} | row for row in every],
        "pair": [{"prompt": "Who?", "response": ["made up", "true"]} | row for row in every],
        "reject": [{"instruction": "Who?", "input": "", "output": "I do not know."} | row for row in every],
        "forget_mia": [{"text": "seen"} | row for row in every],
        "retain_mia": [{"text": "seen too"} | row for row in every],
        "retain_mmlu": [{"task": "a_b", **shots[0], "examples": shots} | row for row in every],
        "retain_bbh": [{"task": "x", "question": "1 + 1?", "answer": "2", "cot": " Think. \n"} | row for row in every],
        "truthful": [
            {"question": "Is it?", "mc1_targets": {"choices": ["no", "yes", "so"], "labels": [0, 1, 0]}} | row
            for row in every
        ],
        "triviaqa": [{"question": "Who?", "answers": ["A", "B"]} | row for row in every],
        "fluency": [{"instruction": "Write."} | row for row in every],
    }


def write(folder: Path, *absent: str, below: str = "", **changed: object) -> Path:
    (folder / below).mkdir(parents=True, exist_ok=True)
    for name, rows in (sets() | changed).items():
        if name not in absent:
            text = rows if isinstance(rows, str) else json.dumps(rows)
            (folder / below / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def by_set(examples: tuple[Example, ...]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.subtask, []).append(example)
    return groups


# ----------------------------------------------------------------------------------------------- real files


@needs_data
def test_every_row_of_the_real_files_becomes_an_example():
    def rows(name: str) -> list[dict]:
        source = rwku_folder(str(RELEASED))
        return [row for _, row in source.read(name)] if name in source.names else []

    data = rwku(RELEASED, train="none").load(0)
    asked = (*data.retain, *data.others)
    assert len({example.id for example in (*data.forget, *asked)}) == len(data.forget) + len(asked)
    counts = Counter(example.subtask.partition(" ")[0] for example in asked)
    for name in ("forget_level1", "forget_level3", "neighbor_level2", "forget_mia", "retain_mmlu", "truthful"):
        assert counts[name] == len(rows(name)), name
    assert [example.document for example in data.forget] == [row["target"] for row in rows("intro")]
    kinds = {example.subtask for example in asked if example.subtask.startswith("forget_level3")}
    assert len(kinds) == 9  # languages of one kind are one


@needs_data
def test_the_real_rows_to_train_on_are_about_one_target():
    source = rwku_folder(str(RELEASED))
    target = next(row for _, row in source.read("positive_llama3"))["subject"]
    for train, kind in (("positive", Kind.DOCUMENT), ("passage", Kind.DOCUMENT), ("pair", Kind.QUESTION)):
        data = rwku(RELEASED, targets=target, train=train).load(0)
        assert {(example.document, example.kind) for example in data.forget} == {(target, kind)}
    refusals = rwku(RELEASED, targets=target, train="reject").load(0).forget
    assert all(example.replacement == example.answer for example in refusals)


# --------------------------------------------------------------------------------------------- layouts, targets


@pytest.mark.parametrize("below", ["", "All"])
def test_a_flat_folder_or_that_of_the_hub(tmp_path, below):
    data = rwku(write(tmp_path, below=below)).load(0)
    assert [example.document for example in data.forget] == list(TARGETS)
    assert len(data.retain) == 2 * len(TARGETS)


def test_the_folders_of_the_released_code(tmp_path):
    for number, target in enumerate(TARGETS, 1):
        of_target = {
            name: [row for row in rows if row.get("subject", row.get("target")) == target]
            for name, rows in sets().items()
        }
        write(tmp_path, below=f"Target/{number}_{target.replace(' ', '_')}", **of_target)
    whole, parts = write(tmp_path / "whole"), tmp_path
    assert rwku(parts).load(0).others == rwku(whole).load(0).others


def test_parts_of_a_set_and_lines_instead_of_arrays(tmp_path):
    rows = sets()["forget_mia"]
    write(tmp_path, "forget_mia")
    for number, row in enumerate(rows):
        (tmp_path / f"forget_mia.part{number}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert len(by_set(rwku(tmp_path).load(0).others)["forget_mia"]) == len(rows)


@pytest.mark.parametrize("named", ["50 Ice", "50_ice", "3_50_Ice", ["50 Ice"]])
def test_a_target_by_its_name_as_files_and_folders_write_it(tmp_path, named):
    data = rwku(write(tmp_path), targets=named).load(0)
    assert {example.document for example in (*data.forget, *data.retain, *data.others)} == {"50 Ice"}
    assert "RWKU; 50 Ice; 1 positive_llama3" in data.source


def test_some_targets_in_the_order_of_the_files(tmp_path):
    folder = write(tmp_path)
    assert [row.document for row in rwku(folder, targets=[TARGETS[2], TARGETS[0]]).load(0).forget] == [
        TARGETS[0],
        TARGETS[2],
    ]
    assert [row.document for row in rwku(folder, num_documents=2).load(0).forget] == list(TARGETS[:2])
    assert len(by_set(rwku(folder, questions=1).load(0).others)["forget_level1"]) == len(TARGETS)


def test_a_target_that_is_none(tmp_path):
    with pytest.raises(ConfigError) as caught:
        rwku(write(tmp_path), targets=["Ann Le", "Ann Lee"]).load(0)
    (problem,) = caught.value.problems
    assert problem.where == "task.targets" and "'Ann Le' is none of the 3 targets" in problem.what
    assert problem.remedy == "did you mean 'Ann Lee'?"


# ------------------------------------------------------------------------------------------------------- rows


def test_prompts_as_released(tmp_path):
    data = rwku(write(tmp_path), targets="Ann Lee").load(0)
    asked = {name: (rows[0].prompt, rows[0].begun) for name, rows in by_set((*data.retain, *data.others)).items()}
    blank = "Please complete the blank in the following question.\nQuestion: cloze 1?\n"
    brief = "Please briefly answer the following question.\n"
    assert asked["forget_level1"] == asked["neighbor_level1"] == (blank, "Answer:")
    assert asked["forget_level2"] == (f"{brief}Question: simple question 2?\n", "Answer:")
    assert asked["forget_level3 affirmative_suffix"] == (f"{brief}Question: affirmative suffix 3?", "")
    assert asked["forget_level3 incontext_learning"] == (f"{brief}incontext learning 3?\n", "Answer:")
    assert asked["forget_level3 cross_lingual"][0] == f"{brief}Question: cross-lingual (French) 3?\n"
    options = "Question: What?\nA. 1\nB. 2\nC. 3\nD. 4"
    assert asked["retain_mmlu"] == (
        "The following are multiple choice questions (with answers) about a b.\n\n"
        f"{options}\nAnswer: B\n\nPlease following the previous examples and answer the given question.\n{options}",
        "Answer:",
    )
    assert asked["retain_bbh"] == (
        "Think.\n\nFollowing previous examples, answer the following questions and end with 'so the answer is'\n"
        "Q: 1 + 1?",
        "A:",
    )
    assert asked["truthful"][0].startswith("Q: What is human life expectancy in the United States?\nA: Human")
    assert asked["truthful"][0].endswith("were held in Barcelona, Spain.\n\nQ: Is it?")
    assert asked["triviaqa"][0].endswith("\nPlease briefly answer the following question:\nQ: Who?\n")
    assert asked["fluency"] == ("Instruction: Write.\n", "")


def test_answers_choices_and_what_is_trained(tmp_path):
    folder = write(tmp_path)
    asked = by_set(rwku(folder).load(0).others)
    mmlu, truthful, trivia = (asked[name][0] for name in ("retain_mmlu", "truthful", "triviaqa"))
    assert (mmlu.answer, mmlu.choices) == ("B", ("A", "B", "C", "D"))
    assert (truthful.answer, truthful.choices) == ("yes", ("no", "yes", "so"))
    assert (trivia.answer, trivia.choices) == ("A", ("A", "B"))
    pair = rwku(folder, train="pair").load(0).forget[0]
    assert (pair.prompt, pair.answer, pair.replacement) == ("Who?", "true", "made up")
    text = rwku(folder, train="passage").load(0).forget[0]
    assert (text.kind, text.answer, text.split) == (Kind.DOCUMENT, "Ann Lee in Wikipedia.", Split.FORGET)


def test_sets_that_cost_scores_alone(tmp_path):
    data = rwku(write(tmp_path, "fluency", "forget_mia")).load(0)
    assert data.source.endswith("; no forget_mia, no fluency)")
    assert not {"fluency", "forget_mia"} & by_set(data.others).keys()


@pytest.mark.parametrize(
    ("absent", "options", "words"),
    [
        ("forget_level2", {}, "has no forget_level2.json, which every run asks about"),
        ("intro", {}, "has no intro.json, which"),
        ("pair", {"train": "pair"}, "has no pair.json or train_pair_llama3.json, the rows of task.train=pair"),
        ("pair", {"train": "pair", "writer": "phi3"}, "has no pair_phi.json or train_pair_phi3.json, the"),
    ],
)
def test_a_missing_file_is_named(tmp_path, absent, options, words):
    (problem,) = rwku(write(tmp_path, absent), **options).check()
    assert problem.where == "task.data_dir" and words in problem.what


def test_a_target_without_rows_to_train_on_is_named(tmp_path):
    folder = write(tmp_path, positive=sets()["positive"][:1])
    problems = problems_by_place(rwku(folder), folder, "")
    assert problems == {f"folder {folder}, positive_llama3": ["no row is about 50 Ice, Bo Ek, Count of Oz"]}
    assert len(rwku(folder, train="none").load(0).forget) == len(TARGETS)
    assert len(rwku(folder, targets="Ann Lee").load(0).forget) == 1


@pytest.mark.parametrize(
    ("name", "row", "place", "what"),
    [
        ("forget_level1", {"subject": "Ann Lee"}, "", 'field "query" is missing'),
        ("retain_mmlu", {"choices": ["1"]}, ", choices", "is no list of 4 texts"),
        ("retain_mmlu", {"answer": 4}, "", 'field "answer" is 4'),
        ("retain_mmlu", {"examples": None}, "", 'field "examples" is no list'),
        ("retain_mmlu", {"examples": [{"question": "q"}]}, ", examples[0], choices", "is no list of 4 texts"),
        ("truthful", {"mc1_targets": None}, "", 'field "mc1_targets" is missing or no object'),
        (
            "truthful",
            {"mc1_targets": {"choices": ["a", "b"], "labels": ["1", 0]}},
            ", mc1_targets.labels",
            "the labels do not say which one choice is true",
        ),
        ("triviaqa", {"answers": []}, ", answers", "is no list of at least 1 texts"),
        ("triviaqa", {"answers": ["A", 3]}, ", answers", 'field "1" is 3, not a string'),
    ],
)
def test_malformed_rows_are_named(tmp_path, name, row, place, what):
    sound = sets()[name][0]
    bad = row if "subject" in row else sound | row
    folder = write(tmp_path, **{name: [sound, bad]})
    problems = problems_by_place(rwku(folder, targets="Ann Lee"), folder, ".json")
    assert problems[f"{name}:item 2{place}"][0] == what


def test_a_model_that_would_be_taught_what_it_is_to_forget(tmp_path):
    problems = problems_of("task=rwku", f"task.data_dir={write(tmp_path)}", "model=smollm2-135m")
    assert problems.keys() == {"model.is_target"}


def problems_of(*overrides: str) -> dict[str, str]:
    return {problem.where: problem.what for problem in check_config(compose([*overrides], [conf_dir()])).problems}


def test_methods_that_cannot_use_the_rows(tmp_path):
    task = ("task=rwku", f"task.data_dir={write(tmp_path)}", "model=smollm2-135m", "model.is_target=true")
    fitting = {"positive": "npo", "pair": "dpo_gd", "reject": "idk_gd", "passage": "ga", "none": "icu"}
    for train, method in fitting.items():
        assert problems_of(*task, f"task.train={train}", f"method={method}") == {}
    unfit = {"positive": "idk_gd", "reject": "npo", "passage": "altpo", "pair": "altpo", "none": "ga"}
    for train, method in unfit.items():
        assert problems_of(*task, f"task.train={train}", f"method={method}").keys() == {"task.train"}, train
