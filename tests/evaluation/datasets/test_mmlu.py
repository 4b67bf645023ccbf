"""MMLU is read exactly: prompts, shots, limits, and files that are not as they should be."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.shared import SHARED

from lume_run.common.errors import DataError, RunError
from lume_run.common.records import Kind, Split
from lume_run.config.settings import EvaluatorSettings, MmluSettings
from lume_run.evaluation.datasets.mmlu import check_folder, load_mmlu
from lume_run.evaluation.inference.loaded_model import LoadedModel, fit_shots
from lume_run.evaluation.suites.lume import mmlu_examples

MMLU = SHARED / "data" / "mmlu"


def write_mmlu(folder: Path, subject: str = "high_school_physics", *, dev: str, test: str) -> Path:
    for part, text in (("dev", dev), ("test", test)):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"{subject}_{part}.csv").write_text(text, encoding="utf-8")
    return folder


DEV = 'What falls?,stones,"ideas, mostly",light,nothing,A\n"Say ""mass""",m,k,g,s,B\n'
TEST = "What is hot?,ice,fire,snow,fog,B\nWhat is cold?,ice,fire,sun,tea,A\nWhat is wet?,sand,rock,rain,salt, C \n"
HEAD = "The following are multiple choice questions (with answers) about  high school physics.\n\n"
SHOT_1 = "What falls?\nA. stones\nB. ideas, mostly\nC. light\nD. nothing\nAnswer: A\n\n"
SHOT_2 = 'Say "mass"\nA. m\nB. k\nC. g\nD. s\nAnswer: B\n\n'
ASKED = "What is hot?\nA. ice\nB. fire\nC. snow\nD. fog\nAnswer:"


@pytest.mark.parametrize(
    ("shots", "prompt"),
    [(0, HEAD + ASKED), (1, HEAD + SHOT_1 + ASKED), (5, HEAD + SHOT_1 + SHOT_2 + ASKED)],
)
def test_mmlu_prompt(tmp_path, shots, prompt):
    examples = load_mmlu(data_dir=str(write_mmlu(tmp_path, dev=DEV, test=TEST)), hub_id=None, limit=None, shots=shots)
    assert examples[0].prompt == prompt
    assert [example.answer for example in examples] == ["B", "A", "C"]
    assert {example.choices for example in examples} == {("A", "B", "C", "D")}
    assert {(example.split, example.kind, example.subtask) for example in examples} == {
        (Split.MMLU, Kind.CHOICE, "high_school_physics")
    }
    assert len({example.id for example in examples}) == 3


def model_of(tokenizer, room: int) -> LoadedModel:
    return LoadedModel(
        model=torch.nn.Linear(1, 1), tokenizer=tokenizer, max_new_tokens=1, max_length=room, batch_tokens=4096
    )


def test_as_many_worked_examples_as_fit(tmp_path, tiny_tokenizer):
    """From the last on they are left out, until the model has room for the prompt and a token of the answer."""
    folder = write_mmlu(tmp_path, dev=DEV, test=TEST)
    example = load_mmlu(data_dir=str(folder), hub_id=None, limit=1, shots=5)[0]
    prompts = [HEAD + "".join((SHOT_1, SHOT_2)[:count]) + ASKED for count in range(3)]
    lengths = [len(tiny_tokenizer(prompt)["input_ids"]) for prompt in prompts]
    for room, shots in ((10_000, 2), (lengths[2] + 1, 2), (lengths[2], 1), (lengths[1], 0), (8, 0)):
        assert fit_shots(example, model_of(tiny_tokenizer, room)).prompt == prompts[shots]


def test_the_official_run_takes_no_more_than_2048_tokens(tmp_path, tiny_tokenizer):
    long = "x y " * 600
    folder = write_mmlu(tmp_path, dev=DEV + f'"{long}",m,k,g,s,B\n' * 3, test=TEST)
    example = load_mmlu(data_dir=str(folder), hub_id=None, limit=1, shots=5)[0]
    fitted = fit_shots(example, model_of(tiny_tokenizer, 10**6)).prompt
    more = fitted.removesuffix(ASKED) + example.prompt[len(fitted) - len(ASKED) :].split("Answer: B\n\n")[0]
    assert len(tiny_tokenizer(fitted)["input_ids"]) <= 2048 < len(tiny_tokenizer(more)["input_ids"])
    assert fitted.endswith(ASKED) and fitted.startswith(HEAD + SHOT_1)


def test_strict_takes_cells_for_what_pandas_does(tmp_path):
    folder = write_mmlu(tmp_path, dev=DEV, test='What is left?,None,"1,5",NA,all,A\nWhat is two?,2,2.50,x,y,B\n')
    plain, strict = (
        mmlu_examples(EvaluatorSettings(mmlu=MmluSettings(data_dir=str(folder), shots=0), strict=strict))
        for strict in (False, True)
    )
    assert plain[0].prompt.endswith("A. None\nB. 1,5\nC. NA\nD. all\nAnswer:")
    assert strict[0].prompt.endswith("A. nan\nB. 1,5\nC. nan\nD. all\nAnswer:")
    assert plain[1].prompt.endswith("A. 2\nB. 2.50\nC. x\nD. y\nAnswer:")
    assert [example.answer for example in strict] == ["A", "B"]


def test_mmlu_limit_is_per_subject(tmp_path):
    write_mmlu(tmp_path, "anatomy", dev=DEV, test=TEST)
    write_mmlu(tmp_path, "virology", dev=DEV, test=TEST)
    mmlu = MmluSettings(data_dir=str(tmp_path), limit=2, shots=0)
    counts = Counter(example.subtask for example in mmlu_examples(EvaluatorSettings(mmlu=mmlu)))
    assert counts == {"anatomy": 2, "virology": 2}
    assert mmlu_examples(EvaluatorSettings()) == []


def test_mmlu_bad_lines_are_named(tmp_path):
    test = 'good,a,b,c,d,A\ntoo,few,B\n"two\nlines",a,b,c,d,A\ngood,a,b,c,d,E\n'
    write_mmlu(tmp_path, dev="only,three,C\n", test=test)
    with pytest.raises(DataError) as caught:
        load_mmlu(data_dir=str(tmp_path), hub_id=None, limit=None, shots=5)
    name = "high_school_physics"
    assert [problem.where for problem in caught.value.problems] == [
        f"{tmp_path}/dev/{name}_dev.csv:1",
        f"{tmp_path}/test/{name}_test.csv:2",
        f"{tmp_path}/test/{name}_test.csv:5",
    ]
    assert "3 columns" in caught.value.problems[0].what


def test_mmlu_without_its_files(tmp_path):
    write_mmlu(tmp_path, dev=DEV, test=TEST)
    (tmp_path / "dev" / "high_school_physics_dev.csv").unlink()
    with pytest.raises(DataError, match=r"high_school_physics_dev\.csv: missing"):
        load_mmlu(data_dir=str(tmp_path), hub_id=None, limit=None, shots=5)
    (tmp_path / "test" / "high_school_physics_test.csv").unlink()
    assert "no test/*_test.csv" in check_folder(tmp_path)[0].what
    with pytest.raises(DataError, match="no test/"):
        load_mmlu(data_dir=str(tmp_path), hub_id=None, limit=None, shots=5)


def test_mmlu_from_the_hub_reads_the_same(tmp_path, monkeypatch):
    def rows(question: str, options: str, answer: int) -> dict:
        return {"subject": "high_school_physics", "question": question, "choices": options.split(), "answer": answer}

    parts = {"dev": [rows("What falls?", "stones air light nothing", 0)], "test": [rows("Hot?", "a b c d", 3)]}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda hub_id, name: parts))
    hub = load_mmlu(data_dir=None, hub_id="cais/mmlu", limit=None, shots=5)
    folder = write_mmlu(tmp_path, dev="What falls?,stones,air,light,nothing,A\n", test="Hot?,a,b,c,d,D\n")
    assert hub == load_mmlu(data_dir=str(folder), hub_id=None, limit=None, shots=5)


def test_mmlu_out_of_reach(monkeypatch):
    def fail(hub_id: str, name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(RunError, match=r"(?s)'cais/mmlu'.*no route.*HF_TOKEN.*HF_HOME.*evaluator.mmlu.data_dir="):
        load_mmlu(data_dir=None, hub_id="cais/mmlu", limit=None, shots=5)


@pytest.mark.skipif(not MMLU.is_dir(), reason=f"the real MMLU is not at {MMLU}")
def test_mmlu_in_full():
    examples = load_mmlu(data_dir=str(MMLU), hub_id=None, limit=None, shots=5)
    assert len(examples) == len({example.id for example in examples}) == 14042
    assert len({example.subtask for example in examples}) == 57
    assert all(example.prompt.count("\nAnswer:") >= 6 for example in examples)
    assert {example.answer for example in examples} == {"A", "B", "C", "D"}
    first = next(example for example in examples if example.subtask == "abstract_algebra")
    assert first.prompt.startswith(
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
        "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer: B\n\n"
    )
    assert first.prompt.endswith("over Q.\nA. 0\nB. 4\nC. 2\nD. 6\nAnswer:")
