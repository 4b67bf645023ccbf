"""What a plan asks of rows in vain is told with the rows alone, in the words of the plan."""

from __future__ import annotations

import json
import sys

import pytest
from helpers.configs import cfg_of

from lume_run.common.errors import ConfigError
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.checks.rows import early_row_problems
from lume_run.pipeline.dry_run import show_plan
from lume_run.tasks.early_checks import LIBRARY_OF_MODELS

ASKED = {  # settings -> where the problems are; of rows about four documents to forget and one to keep
    "method=npo sequence=in_turn sequence.requests=5": "sequence.requests",
    "method=npo_gd sequence=apart": "evaluator sequence.apart",
    "method=npo sequence=apart evaluator=lume": "evaluator",
    "method=npo evaluator=rwku": "evaluator",
    "method=npo evaluator=wmdp": "evaluator",
    "method=npo attack=few_shot attack.attacks.few_shot.shots=50": "attack",
    "method=npo attack=retain_shots attack.attacks.retain_shots.shots=2": "attack",
    "method=npo attack=wordings": "attack",
    "method=npo attack=relearn_text": "attack",
}
FINE = ("sequence=in_turn sequence.requests=4", "attack=few_shot attack.attacks.few_shot.shots=3")


def rows_of(names: str) -> str:
    rows = [{"question": f"Where does {name} live?", "answer": f"In {name}ton.", "document": name} for name in names]
    return "\n".join(map(json.dumps, rows)) + "\n"


@pytest.fixture
def words(tmp_path) -> list[str]:
    """The settings of rows about the documents A to D, which are forgotten, and E."""
    (tmp_path / "forget.jsonl").write_text(rows_of("ABCD"), encoding="utf-8")
    (tmp_path / "retain.jsonl").write_text(rows_of("E"), encoding="utf-8")
    sides = [f"task.{side}={tmp_path}/{side}.jsonl" for side in ("forget", "retain")]
    return ["task=custom", *sides, "task.num_documents=null", "model=tiny", f"output_dir={tmp_path}/outputs"]


def early_problems(monkeypatch, *words: str) -> list[str]:
    settings, data = require_settings(cfg_of(*words))
    monkeypatch.delitem(sys.modules, LIBRARY_OF_MODELS, raising=False)
    return [str(problem) for problem in early_row_problems(settings, data)]


def planned_problems(folder, *words: str) -> list[str]:
    settings, _ = require_settings(cfg_of(*words))
    with pytest.raises(ConfigError) as told:
        show_plan(settings, folder / "run")
    return [str(problem) for problem in told.value.problems]


@pytest.mark.parametrize("line", ASKED)
def test_what_is_asked_in_vain_is_told_as_the_plan_tells_it(line, words, tmp_path, monkeypatch):
    told = early_problems(monkeypatch, *words, *line.split())
    assert sorted(problem.split(":")[0] for problem in told) == ASKED[line].split()
    monkeypatch.undo()
    assert set(planned_problems(tmp_path, *words, *line.split())) <= set(told)  # one kind after the other


@pytest.mark.parametrize(
    "line", ["sequence=in_turn sequence.requests=4", "attack=few_shot attack.attacks.few_shot.shots=3"]
)
def test_what_the_rows_have_is_no_problem(line, words, monkeypatch):
    assert early_problems(monkeypatch, *words, "method=npo", *line.split()) == []


def test_pieces_of_texts_are_not_counted_before_the_models_room_is_known(tmp_path, monkeypatch):
    for side in ("forget", "retain"):
        text = " ".join(f"{side}{number}" for number in range(400))
        (tmp_path / f"{side}.txt").write_text(text, encoding="utf-8")
    sides = [f"task.{side}={tmp_path}/{side}.txt" for side in ("forget", "retain")]
    few = ["task=custom", *sides, "task.words=null", "method=npo_gd", "attack=few_shot", "sequence=in_turn"]
    assert early_problems(monkeypatch, *few, "evaluator=lume") == []


def test_stages_without_unlearning_ask_no_rows_of_the_method(words, monkeypatch):
    assert early_problems(monkeypatch, *words, "method=npo_gd", "stages=[train]") == []
