"""The harness on a real model with a task of our own, without the network; its table of results by hand."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.configs import settings_of
from helpers.shared import SHARED, shape

from lume_run.common.errors import RunError
from lume_run.common.records import Score, TaskData
from lume_run.config.model_settings import ModelSettings
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.scoring import score_models
from lume_run.evaluation.suites.base import Answers, Harnessed
from lume_run.evaluation.suites.utility.lm_eval import LmEval, scores_of
from lume_run.models.load import load_model
from lume_run.models.tokenizer import load_tokenizer
from lume_run.pipeline.driver import run_pipeline

MODEL = SHARED / "models" / "stories260K"
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra is missing: pip install 'lume-run[lm-eval]'"
)
needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason=f"the real model is not at {MODEL}")

ROWS = [
    {"story": "Once upon a time, there was a little", "choices": ["girl", "tax return"], "label": 0},
    {"story": "Lily went to the", "choices": ["xylophone", "park"], "label": 1},
    {"story": "The dog was very", "choices": ["happy", "quantum"], "label": 0},
    {"story": "They lived happily ever", "choices": ["after", "tax"], "label": 0},
    {"story": "She had a big red", "choices": ["ball", "zzz"], "label": 0},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
  cache_dir: "{cache}"
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{story}}}}"
doc_to_target: label
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""
GROUP = """
group: lume_run_group
task: [lume_run_choices]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
metadata: {version: 1}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with a task of five rows, a group of it, and a task whose file is absent."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for name, path in (("lume_run_choices", data), ("lume_run_absent", folder / "no.jsonl")):
        text = TASK.format(name=name, data=path, cache=folder / "cache")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "group.yaml").write_text(GROUP, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model_and_tokenizer():
    """A real model and its tokenizer, as the stages load them."""
    settings = ModelSettings(name="test")
    return load_model(str(MODEL), settings, torch.device("cpu")).eval(), load_tokenizer(str(MODEL), settings)


def test_scores_by_hand():
    """0.6 of 5: the standard error sqrt(0.6 * 0.4 / 4) is 0.2449, 1.96 of which are 0.48."""
    error = math.sqrt(0.6 * 0.4 / 4)
    results = {
        "mine": {"name": "mine", "alias": "mine", "sample_len": 5, "acc,none": 0.6, "acc_stderr,none": error},
        "math": {
            "alias": " - math",
            "sample_len": 3,
            "exact_match,strict-match": 1 / 3,
            "exact_match_stderr,strict-match": "N/A",
            "word_perplexity,none": float("nan"),
        },
        "group": {"sample_len": 8, "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_count": {"acc,none": 7}},
        "bare_group": {"alias": "bare_group", " ": " "},
    }
    sheet = {score.name: score for score in scores_of(results)}
    assert list(sheet) == [
        "lm_eval.mine.acc",
        "lm_eval.math.exact_match.strict-match",
        "lm_eval.math.word_perplexity",
        "lm_eval.group.acc",
    ]
    mine = sheet["lm_eval.mine.acc"]
    assert (mine.value, mine.n) == (0.6, 5)
    assert (mine.low, mine.high) == pytest.approx((0.6 - 0.48, 0.6 + 0.48), abs=1e-3)
    strict = sheet["lm_eval.math.exact_match.strict-match"]
    assert (strict.value, strict.n, strict.low, strict.high) == (1 / 3, 3, None, None)
    odd = sheet["lm_eval.math.word_perplexity"]
    assert (odd.value, odd.reason) == (None, "the harness gave nan, which is no finite number")
    assert sheet["lm_eval.group.acc"].n == 7


def test_without_a_model_there_is_a_reason(tmp_path):
    """As with stages=[score], or where the model answers in a context."""
    settings = SimpleNamespace(evaluator=EvaluatorSettings(suites={"lm_eval": LmEval(tasks=["arc_easy"])}))
    measured = {"target": [Score(name="lm_eval.arc_easy.acc", value=0.5, n=4)]}
    models = score_models(settings, tmp_path, {"target": [], "unlearned": []}, measured)
    sheets = {name: model.by_name for name, model in models.items()}
    assert list(sheets["target"]) == ["lm_eval.arc_easy.acc"]
    assert sheets["unlearned"]["lm_eval"].value is None
    assert "method=icu" in sheets["unlearned"]["lm_eval"].reason


def test_without_tasks_nothing_is_run():
    suite = LmEval()
    assert isinstance(suite, Harnessed)
    assert not suite.active
    assert suite.measure(None, None) == []
    assert suite.asks(TaskData(forget=(), retain=()), EvaluatorSettings()) == []
    (score,) = suite.scores(Answers(responses=[], evaluator=EvaluatorSettings()))
    assert (score.name, score.value) == ("lm_eval", None)
    assert "evaluator.suites.lm_eval.tasks" in score.reason


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find(name, *rest)
    )
    (problem,) = LmEval(tasks=["arc_easy"]).check()
    assert problem.where == "evaluator.suites.lm_eval.tasks"
    assert problem.remedy == "pip install 'lume-run[lm-eval]'"


@pytest.mark.slow  # the harness takes seconds to import
@needs_harness
def test_unknown_names_are_found_before_a_model_is_loaded(tasks):
    suite = LmEval(tasks=["lume_run_choices", "lume_run_choice", "arc_easy", "!"], include_path=str(tasks))
    typo, nonsense = suite.check()
    assert typo.where == "evaluator.suites.lm_eval.tasks[1]"
    assert typo.what == "the harness knows no 'lume_run_choice'"
    assert "did you mean lume_run_choices" in typo.remedy
    assert nonsense.where == "evaluator.suites.lm_eval.tasks[3]"
    assert "lm-eval ls tasks" in nonsense.remedy
    assert suite.scores(Answers(responses=[], evaluator=EvaluatorSettings())) == []
    (absent,) = LmEval(tasks=["arc_easy"], include_path=str(tasks / "no")).check()
    assert absent.where == "evaluator.suites.lm_eval.include_path"


@pytest.mark.slow  # the harness takes seconds to import
@needs_harness
@needs_model
def test_a_task_and_its_group_on_a_real_model(tasks, model_and_tokenizer, capfd):
    """Accuracy as our own forward gives it: the option with the highest summed log-probability."""
    model, tokenizer = model_and_tokenizer
    sheet = {
        score.name: score
        for score in LmEval(tasks=["lume_run_group"], include_path=str(tasks), batch_size=3).measure(model, tokenizer)
    }
    assert set(sheet) == {"lm_eval.lume_run_choices.acc", "lm_eval.lume_run_group.acc"}
    accuracy = sum(likeliest_choice(row, model, tokenizer) == row["label"] for row in ROWS) / len(ROWS)
    for score in sheet.values():
        assert (score.value, score.n, score.reason) == (pytest.approx(accuracy), 5, None)
        error = math.sqrt(accuracy * (1 - accuracy) / 4)
        assert (score.low, score.high) == pytest.approx((accuracy - 1.96 * error, accuracy + 1.96 * error))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "`pretrained`" not in printed.err
    assert "Running loglikelihood requests" in printed.err  # progress


def likeliest_choice(row, model, tokenizer) -> int:
    """The number of the option with the highest log-probability after the story, one row at a time."""
    totals = []
    for choice in row["choices"]:
        begin = len(tokenizer(row["story"])["input_ids"])
        ids = torch.tensor([tokenizer(f"{row['story']} {choice}")["input_ids"]])
        with torch.inference_mode():
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        totals.append(float(logps.gather(-1, ids[0, 1:, None])[begin - 1 :].sum()))
    return max(range(len(totals)), key=totals.__getitem__)


@pytest.mark.slow  # the harness takes seconds to import
@needs_harness
@needs_model
def test_limit_and_shots(tasks, model_and_tokenizer):
    suite = LmEval(tasks=["lume_run_choices"], include_path=str(tasks), limit=2, num_fewshot=1)
    (score,) = suite.measure(*model_and_tokenizer)
    assert (score.name, score.n) == ("lm_eval.lume_run_choices.acc", 2)


@pytest.mark.slow  # the harness takes seconds to import
@needs_harness
@needs_model
def test_a_failing_harness_says_what_it_was_doing(tasks, model_and_tokenizer):
    suite = LmEval(tasks=["lume_run_absent"], include_path=str(tasks))
    assert suite.check() == []  # the name is known; its data are looked for only when it is run
    with pytest.raises(RunError, match=r"could not measure lume_run_absent: FileNotFoundError"):
        suite.measure(*model_and_tokenizer)


@needs_harness
@pytest.mark.slow
def test_a_task_is_measured_after_each_request(tasks, tmp_path):
    """Of three requests: the target, two models between, the last; its mean over requests is in the report."""
    settings = settings_of(
        *shape(32, 2, 48), "task.num_documents=3", "trainer.train.epochs=1", "trainer.unlearn.epochs=1", "method=ga",
        "sequence=in_turn", "sequence.requests=3", "evaluator=[memorisation,lm_eval]", "launch.device=cpu",
        "logger=none", "evaluator.suites.lm_eval.tasks=[lume_run_choices]",
        f"evaluator.suites.lm_eval.include_path={tasks}",
        "evaluator.resamples=10", f"output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    run_pipeline(settings, tmp_path / "out/run", identity={}, command=["test"])
    report = json.loads((tmp_path / "out/run/report.json").read_text(encoding="utf-8"))
    name = "lm_eval.lume_run_choices.acc"
    values = {row["after"]: row["value"] for row in report["sequence"]["rows"] if row["score"] == name}
    assert sorted(values) == [0, 1, 2, 3]
    area = report["scores"][f"unlearned.sequence.{name}.area"]
    assert area == pytest.approx((values[1] + values[2] + values[3]) / 3)
