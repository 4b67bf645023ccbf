"""Reports are strict and flat, say what is missing, and fit the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.artifacts import Builder, answers, artifact, strict_json
from rich.console import Console

from lume_run.common.files import write_json
from lume_run.common.records import Response, Score
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.metrics.bootstrap import Bootstrap, Column, mean_of
from lume_run.evaluation.scoring import gate, score_answers
from lume_run.evaluation.suites.base import Answers
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import RunResults, score_and_report, training_outcomes
from lume_run.report.plots import AFTER, BETTER, PICTURE_WIDTH, WITHIN_NOISE, WORSE, color_of, label_inches, panels_of
from lume_run.report.results import Report, names_by_group, report_json
from lume_run.report.tables import NOISE_NOTE, markdown
from lume_run.report.warnings import ending_warnings
from lume_run.report.write import print_report, write_report

MANIFEST = {"config_hash": "0123456789abcdef", "seed": 3, "versions": {"python": "3.11"}}


# ------------------------------------------------------------------------------------------------- report


def a_score(name: str, value: float | None, n: int = 4, reason: str | None = None) -> Score:
    return Score(name=name, value=value, n=n, reason=reason)


def a_report(**changes) -> Report:
    before = [
        a_score("forget.bios.regurgitation", 0.9),
        a_score("forget.bios.knowledge", 1.0),
        a_score("retain.bios.knowledge", 0.8),
        a_score("forget.knowledge", 1.0),
        a_score("mia.auc", 0.9),
        a_score("mmlu.accuracy", 0.5, n=14042),
        a_score("aggregate", None, reason="needs all three parts"),
    ]
    after = [replace(entry, value=None if entry.value is None else entry.value / 2) for entry in before]
    scores = {
        who: {entry.name: entry for entry in entries} for who, entries in (("target", before), ("unlearned", after))
    }
    passed, rule = gate(0.25, 0.5, None)
    fields = {
        "name": "bios-tiny-npo-01234567",
        "scores": scores,
        "gate": passed,
        "gate_rule": rule,
        "seconds": {"train": 61.234, "evaluate": 2.0},
        "manifest": MANIFEST,
        "source": "built-in generator (seed 3)",
    }
    return Report(**fields | changes)


def terminal_text(report: Report, folder: Path, width: int = 200) -> str:
    out = io.StringIO()
    print_report(report, folder, Console(file=out, width=width))
    return out.getvalue()


def test_report_json_is_flat_and_strict(tmp_path):
    strict = {"unlearned": {"aggregate": float("nan"), "terms": [0.5, float("nan")]}}
    write_report(a_report(strict=strict), tmp_path)
    report = strict_json(tmp_path / "report.json")
    assert report["scores"]["target.forget.bios.knowledge"] == 1.0
    assert report["scores"]["unlearned.forget.bios.knowledge"] == 0.5
    assert report["scores"]["change.forget.bios.knowledge"] == -0.5
    assert report["scores"]["unlearned.aggregate"] is None
    assert "change.aggregate" not in report["scores"]
    assert report["reasons"] == {
        "target.aggregate": "needs all three parts",
        "unlearned.aggregate": "needs all three parts",
    }
    assert report["n"]["target.mmlu.accuracy"] == 14042
    assert all(value is None or isinstance(value, float) for value in report["scores"].values())
    assert report["official"] == {"unlearned": {"aggregate": "NaN", "terms": [0.5, "NaN"]}}
    assert report["mmlu_gate"] == {"passed": False, "rule": "MMLU 0.250 against 0.375 (75% of the target's 0.500)"}
    assert (report["run"], report["seed"]) == ("bios-tiny-npo-01234567", 3)
    assert (report["config_hash"], report["versions"]) == (MANIFEST["config_hash"], MANIFEST["versions"])
    assert report["seconds"] == {"train": 61.23, "evaluate": 2.0}


def test_no_report_json_rather_than_a_loose_one(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(a_report(scores={"model": {"mia.auc": a_score("mia.auc", float("nan"))}}), tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(("passed", "word"), [(True, "PASS"), (False, "FAIL"), (None, "not judged")])
def test_the_gate_shows(passed, word, tmp_path):
    report = a_report(gate=passed, gate_rule="the rule")
    for text in (markdown(report), terminal_text(report, tmp_path)):
        assert f"MMLU gate: {word} (the rule)" in text
    assert report_json(report)["mmlu_gate"] == {"passed": passed, "rule": "the rule"}


def test_report_md_is_a_table_with_reasons():
    lines = markdown(a_report()).split("\n")
    assert "| score | wanted | before | after | change |" in lines
    assert "| --- | --- | ---: | ---: | ---: |" in lines
    assert "| forget.bios.knowledge | lower | 1.000 | 0.500 | -0.500 |" in lines
    assert "| retain.bios.knowledge | higher | 0.800 | 0.400 | -0.400 |" in lines
    assert "| mia.auc | 0.5 | 0.900 | 0.450 | -0.450 |" in lines
    assert "| aggregate | higher | n/a | n/a |  |" in lines
    assert "- n/a: aggregate: needs all three parts" in lines
    assert "- seconds: train 61.2, evaluate 2.0" in lines
    assert not any(line.startswith("| forget.knowledge") for line in lines)  # the same as the only task's own


def test_one_subject_has_no_change(tmp_path):
    report = a_report(scores={"model": a_report().scores["target"]})
    assert "| score | wanted | model |" in markdown(report).split("\n")
    assert not any(name.startswith("change.") for name in report_json(report)["scores"])
    assert "model" in terminal_text(report, tmp_path)


def test_brackets_and_colons_are_printed_as_they_are(tmp_path):
    reason = "give stages=[train,unlearn] in file:100: [/x]"
    scores = {"model": {"aggregate": a_score("aggregate", None, reason=reason)}}
    text = terminal_text(
        a_report(scores=scores, source="folder [/x]", name="[a]-run", gate_rule="[b]"), tmp_path / "[c]"
    )
    for part in ("stages=[train,unlearn]", "[/x]", "folder [/x]", "[a]-run", "[b]", "[c]"):
        assert part in text


def outcome(**changed) -> dict:
    """What one optimisation leaves in its outcome.json."""
    fields = {"steps": 6, "planned_steps": 6, "seconds_per_step": 0.1234, "peak_memory_bytes": 3 * 2**29}
    return fields | {"diverged": None, "stopped": None} | changed


DIVERGED = outcome(steps=2, diverged="the loss is nan at step 3 (rows: forget [a])")
STOPPED = outcome(steps=4, stopped="retain NLL 3.1 reached method.stop_when.retain_nll=3 at step 4")


def test_outcomes_are_read_where_there_are_any(tmp_path):
    """A base model and responses come about without training."""
    artifacts = [artifact(tmp_path / name, Builder()) for name in ("base", "target", "unlearned")]
    for each, result in zip(artifacts, (None, outcome(), DIVERGED), strict=True):
        each.path.mkdir()
        if result is not None:
            write_json(each.path / "outcome.json", result)
    named = [replace(each, name=each.path.name) for each in artifacts]
    assert training_outcomes(named) == {"target": outcome(), "unlearned": DIVERGED}


def test_only_an_early_end_is_warned_of():
    assert ending_warnings({}) == ending_warnings({"target": outcome(), "unlearned": outcome()}) == ()
    assert ending_warnings({"target": outcome(), "adapter 1": STOPPED, "unlearned": DIVERGED}) == (
        f"adapter 1 STOPPED: {STOPPED['stopped']}, after 4 of 6 steps",
        f"unlearned DIVERGED: {DIVERGED['diverged']}, after 2 of 6 steps",
    )


def test_the_report_says_how_training_went(tmp_path):
    training = {"target": outcome(), "unlearned": DIVERGED}
    report = a_report(manifest={**MANIFEST, "training": training}, warnings=ending_warnings(training))
    write_report(report, tmp_path)
    data = strict_json(tmp_path / "report.json")
    assert data["training"] == training
    warning = "unlearned DIVERGED: the loss is nan at step 3 (rows: forget [a]), after 2 of 6 steps"
    assert data["warnings"] == [warning]
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").split("\n")
    assert f"- {warning}" in lines
    assert "- target: 6 steps, 0.123 s each, peak memory 1.50 GiB" in lines
    assert warning in terminal_text(report, tmp_path)  # brackets and all
    assert report_json(a_report())["training"] == {}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (outcome(peak_memory_bytes=None), "- target: 6 steps, 0.123 s each"),
        (
            outcome(seconds_per_step=12.345, peak_memory_bytes=2**30),
            "- target: 6 steps, 12.3 s each, peak memory 1.00 GiB",
        ),
        (outcome(seconds_per_step=None), None),  # resumed after its last step: none was timed
    ],
)
def test_what_was_not_measured_is_left_out(result, expected):
    lines = markdown(a_report(manifest={**MANIFEST, "training": {"target": result}})).split("\n")
    target_lines = [line for line in lines if line.startswith("- target:")]
    assert target_lines == ([expected] if expected else [])


# ------------------------------------------------------------------------------------- groups, noise, costs


DOCUMENTS = ["d0", "d1"]


def two_document_score(name: str, first: float, second: float) -> Score:
    """The mean over two documents with its interval; resamples have the mean, or either document alone."""
    column = Column.of([first, second], DOCUMENTS)
    return Bootstrap(resamples=200).score(name, 2, lambda: mean_of(column))


# (before, after) of the two documents each
PAIRS = {
    "mine.own": ((0.2, 0.2), (0.3, 0.3)),
    "aggregate": ((0.5, 0.5), (0.75, 0.75)),
    "mmlu.accuracy": ((0.0, 1.0), (1.0, 0.0)),  # one document up, the other down: no change that stands out
    "mia.auc": ((0.9, 0.9), (0.6, 0.6)),
    "retain.bios.knowledge": ((0.75, 0.75), (0.5, 0.5)),
    "forget.bios.knowledge": ((1.0, 1.0), (0.0, 0.5)),
    "perplexity": ((2000.0, 2000.0), (20.0, 40.0)),
}


def grouped_report(**changes) -> Report:
    """A score of every group, in another order than that of the report."""
    scores = {
        who: {name: two_document_score(name, *pair[place]) for name, pair in PAIRS.items()}
        for place, who in enumerate(("target", "unlearned"))
    }
    return a_report(**{"scores": scores} | changes)


def rows_of(report: Report) -> list[str]:
    return [line for line in markdown(report).split("\n") if line.startswith("|")]


def test_scores_stand_in_their_groups():
    assert rows_of(grouped_report())[2:] == [
        "| **forget** | | | | |",
        "| forget.bios.knowledge | lower | 1.000 [1.000, 1.000]† | 0.250 [0.000, 0.500]† | -0.750 [-1.000, -0.500]† |",
        "| **retain** | | | | |",
        "| retain.bios.knowledge | higher | 0.750 [0.750, 0.750]† | 0.500 [0.500, 0.500]† | -0.250 [-0.250, -0.250]† |",
        "| **privacy** | | | | |",
        "| mia.auc | 0.5 | 0.900 [0.900, 0.900]† | 0.600 [0.600, 0.600]† | -0.300 [-0.300, -0.300]† |",
        "| **utility** | | | | |",
        "| mmlu.accuracy | higher | 0.500 [0.000, 1.000]† | 0.500 [0.000, 1.000]† | +0.000 [-1.000, 1.000]† ~ |",
        "| perplexity | lower | 2,000 [2,000, 2,000]† | 30.000 [20.000, 40.000]† | -1,970 [-1,980, -1,960]† |",
        "| **overall** | | | | |",
        "| aggregate | higher | 0.500 [0.500, 0.500]† | 0.750 [0.750, 0.750]† | +0.250 [0.250, 0.250]† |",
        "| **other** | | | | |",
        "| mine.own |  | 0.200 [0.200, 0.200]† | 0.300 [0.300, 0.300]† | +0.100 [0.100, 0.100]† |",
    ]


def test_intervals_and_noise_are_data(tmp_path):
    write_report(grouped_report(), tmp_path)
    report = strict_json(tmp_path / "report.json")
    assert report["intervals"]["target.mmlu.accuracy"] == [0.0, 1.0]
    assert report["intervals"]["change.mmlu.accuracy"] == [-1.0, 1.0]
    assert sorted(report["few_documents"]) == sorted(PAIRS)
    assert report["intervals"]["change.forget.bios.knowledge"] == [-1.0, -0.5]
    assert len(report["intervals"]) == 3 * len(PAIRS)
    assert report["inside_noise"] == ["mmlu.accuracy"]
    assert report["costs"] == {}
    note = f"- {NOISE_NOTE}"
    assert (tmp_path / "report.md").read_text(encoding="utf-8").split("\n").count(note) == 1


def test_without_intervals_nothing_is_called_noise(tmp_path):
    """No score changes here, yet nobody knows how far it could have by chance."""
    report = a_report()
    same = replace(report, scores={"target": report.scores["target"], "unlearned": report.scores["target"]})
    assert same.change("mia.auc") == 0.0
    assert report_json(same)["intervals"] == {}
    assert report_json(same)["inside_noise"] == []
    for text in (markdown(same), terminal_text(same, tmp_path)):
        assert "~" not in text
        assert "[low, high]" not in text


@pytest.mark.parametrize(("width", "cell"), [(109, "0.250"), (110, "0.250 [0.000, 0.500]†")])
def test_a_wide_terminal_has_room_for_intervals(width, cell, tmp_path):
    text = terminal_text(grouped_report(), tmp_path, width=width)
    row = next(line.split() for line in text.split("\n") if line.split()[:1] == ["forget.bios.knowledge"])
    assert row == ["forget.bios.knowledge", "lower", "1.000", *cell.split(), "-0.750"]
    noisy = next(line.split() for line in text.split("\n") if line.split()[:1] == ["mmlu.accuracy"])
    assert noisy[-2:] == ["+0.000", "~"]
    assert text.count(NOISE_NOTE) == 1
    assert ("95 % bootstrap interval over documents" in text) == (width == 110)
    heads = [
        line.strip() for line in text.split("\n") if line.strip() in set(map(str, names_by_group(grouped_report())))
    ]
    assert heads == ["forget", "retain", "privacy", "utility", "overall", "other"]


def test_a_narrow_terminal_loses_no_digit(tmp_path):
    text = terminal_text(grouped_report(), tmp_path, width=80)
    assert "…" not in text
    assert "-1,970" in text


def test_a_narrow_terminal_has_room_for_the_names_of_headlines(tmp_path):
    """Three models and a change; 27 letters are the longest name of a headline."""
    name = "closer_look.forget_efficacy"
    scores = {who: {name: two_document_score(name, 0.25, 0.5)} for who in ("target", "unlearned", "retrained")}
    text = terminal_text(a_report(scores=scores), tmp_path, width=80)
    assert [name, "higher", "0.375", "0.375", "0.375", "+0.000", "~"] in [line.split() for line in text.split("\n")]


MANY = [f"closer_look.{side}.{mean}" for side in ("forget", "retain") for mean in ("rouge", "cosine", "probability")]
MANY += [f"pii.forget.hint{n}.email.exact" for n in range(40)] + [
    "closer_look.forget_efficacy",
    "forget.bios.knowledge",
]


def test_of_many_scores_a_terminal_shows_the_headlines_first(tmp_path):
    """48 names: without the 40 variants they fit."""
    report = a_report(scores={"model": {name: a_score(name, 0.5) for name in MANY}})
    text = terminal_text(report, tmp_path)
    assert "40 more scores in report.md" in text
    assert "hint3" not in text
    assert all(name in text for name in (MANY[0], "closer_look.forget_efficacy", "forget.bios.knowledge"))
    assert all(f"| {name} | " in markdown(report) for name in MANY)
    few = a_report(scores={"model": {name: a_score(name, 0.5) for name in MANY[:40]}})
    assert "more scores" not in terminal_text(few, tmp_path)
    assert sum(map(len, names_by_group(report, most=0).values())) == 2  # the score of the only task is a headline too


def test_both_papers_together_still_show_what_became_of_forget_and_retain_set(tmp_path):
    """42 names on four sets: real authors and world facts make room."""
    means = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine", "entailment")
    sets = ("forget", "retain", "real_authors", "world_facts")
    names = [f"closer_look.{side}.{mean}" for side in sets for mean in means]
    names += [f"tofu.{side}.{mean}" for side in sets for mean in means[:3]]
    names += [
        f"{side}.{mean}" for side in sets[:2] for mean in ("probability", "exact_memorisation", "extraction_strength")
    ]
    report = a_report(scores={"model": {name: a_score(name, 0.5) for name in names}})
    left = [name for members in names_by_group(report, most=40).values() for name in members]
    assert sorted(left) == sorted(name for name in names if "real_" not in name and "world_" not in name)


def test_reasons_take_a_line_each(tmp_path):
    """A reason that holds another stands without it, and of many names the first few stand."""
    cosines = [a_score(f"closer_look.{name}.cosine", None, reason="no embedder: pip install it") for name in "abcde"]
    parts = [
        *cosines,
        a_score("closer_look.model_utility", None, reason="needs closer_look.a.cosine: no embedder: pip install it"),
    ]
    report = a_report(scores={"model": {entry.name: entry for entry in parts}})
    notes = [line for line in markdown(report).split("\n") if line.startswith("- n/a")]
    assert notes == [
        "- n/a: closer_look.a.cosine, closer_look.b.cosine, closer_look.c.cosine and 2 more: no embedder: "
        "pip install it",
        "- n/a: closer_look.model_utility: needs closer_look.a.cosine",
    ]
    assert report_json(report)["reasons"]["model.closer_look.model_utility"] == parts[-1].reason


COSTS = {
    "target": {
        "asks": {
            "generate": {"prompts": 144, "passes": 10, "tokens": 1234, "seconds": 3.04},
            "logprob": {"prompts": 24, "passes": 2, "tokens": 0, "seconds": 0.4},
        },
        "suites": {"lume": {"generate": 144, "logprob": 24, "tokens": 1234}, "mia": {"logprob": 24, "tokens": 0}},
        "alone": {"prompts": 192},
        "shared": {"prompts": 24},
    },
    "unlearned": {"asks": {}, "suites": {"lume": {"generate": 2, "tokens": 9}}, "shared": {"prompts": 0}},
}


def test_the_report_says_what_was_asked(tmp_path):
    report = a_report(costs=COSTS)
    lines = markdown(report).split("\n")
    before = "asked before: 168 prompts (lume 168, mia 24; 24 shared), 1,234 tokens generated, 12 passes, 3.4 s"
    for line in (before, "asked after: 2 prompts (lume 2)"):
        assert f"- {line}" in lines
        assert line in terminal_text(report, tmp_path)
    assert "| before | generate | 144 | 10 | 1,234 | 3.0 |" in lines
    assert "| before | mia | 24 | 0 |" in lines
    assert "| after | lume | 2 | 9 |" in lines
    assert report_json(report)["costs"] == COSTS
    assert "What the models were asked" not in markdown(a_report())


def test_the_plot_shows_headlines(tmp_path):
    pytest.importorskip("matplotlib")
    report = grouped_report()
    assert panels_of(report) == [
        ("forget", ["forget.bios.knowledge"]),
        ("retain", ["retain.bios.knowledge"]),
        ("privacy", ["mia.auc"]),
        ("utility", ["mmlu.accuracy"]),
        ("utility", ["perplexity"]),  # on a scale of its own
        ("overall", ["aggregate"]),
        ("other", ["mine.own"]),
    ]
    write_report(report, tmp_path)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "![scores before and after](report.png)" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_longest_label_has_room_beside_the_panels():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    short, long, endless = (label_inches(figure, ["mmlu", "aggregate" * times]) for times in (1, 3, 100))
    assert 0.5 < short < long / 2 < 1.5  # inches; letters of 8 points
    assert endless == pytest.approx(PICTURE_WIDTH * 2 / 3)


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("forget.bios.knowledge", BETTER),
        ("retain.bios.knowledge", WORSE),
        ("mia.auc", BETTER),  # 0.6 is nearer to 0.5 than 0.9
        ("mmlu.accuracy", WITHIN_NOISE),
        ("perplexity", BETTER),
        ("mine.own", AFTER),  # nobody knows which way is good
    ],
)
def test_colours_say_which_way_it_went(name, color):
    assert color_of(grouped_report(), name) == color


def test_without_matplotlib_there_is_no_plot(tmp_path, monkeypatch):
    (tmp_path / "report.png").write_bytes(b"of an earlier report")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_report(grouped_report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert "report.png" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_plot_of_nothing_is_not_drawn(tmp_path):
    write_report(a_report(scores={}), tmp_path)
    write_report(a_report(scores={"model": {"aggregate": a_score("aggregate", None, reason="no")}}), tmp_path)
    assert not (tmp_path / "report.png").exists()


# --------------------------------------------------------------------------------------- responses to a report


def finish_run(folder: Path, responses: dict[str, list[Response]], *overrides: str) -> dict:
    settings, _ = require_settings(compose([f"output_dir={folder}", *overrides], [conf_dir()]))
    results = RunResults(responses=responses, seconds={"evaluate": 1.0}, source="a test")
    score_and_report(settings, folder, MANIFEST, results)
    return strict_json(folder / "report.json")


@pytest.mark.parametrize(
    ("overrides", "right", "passed"),
    [((), 6, True), ((), 5, False), (("model.mmlu_gate=0.371",), 3, True), (("model.mmlu_gate=0.371",), 2, False)],
)
def test_responses_to_report(tmp_path, overrides, right, passed):
    responses = {"target": answers(right=8), "unlearned": answers(right=right, forget="three")}
    report = finish_run(tmp_path, responses, *overrides)
    assert report["scores"]["target.forget.bios.knowledge"] == 1.0
    assert report["scores"]["unlearned.forget.bios.knowledge"] == 0.0
    assert report["scores"]["unlearned.retain.bios.regurgitation"] == 1.0
    assert report["scores"]["unlearned.mmlu.accuracy"] == right / 8
    assert report["scores"]["unlearned.task_aggregate"] == 1.0
    assert report["scores"]["target.mia.auc"] == 0.75
    assert report["scores"]["unlearned.aggregate"] == pytest.approx((1 + right / 8 + 0.5) / 3)
    assert report["reasons"] == {}
    assert report["mmlu_gate"]["passed"] is passed
    assert f"MMLU gate: {'PASS' if passed else 'FAIL'}" in (tmp_path / "report.md").read_text(encoding="utf-8")
    scores = strict_json(tmp_path / "scores.unlearned.json")
    assert scores["scores"]["forget.bios.knowledge"] == 0.0
    assert scores["n"]["mmlu.accuracy"] == 8


def test_a_missing_part_is_null_with_a_reason(tmp_path):
    report = finish_run(tmp_path, {"unlearned": answers(right=0, mmlu=False)})
    assert report["scores"]["unlearned.mmlu.accuracy"] is report["scores"]["unlearned.aggregate"] is None
    assert "evaluator.mmlu.data_dir" in report["reasons"]["unlearned.aggregate"]
    assert report["mmlu_gate"] == {"passed": None, "rule": "MMLU was not measured"}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "MMLU gate: not judged (MMLU was not measured)" in text
    assert "| aggregate | higher | n/a |" in text
    unlearned = strict_json(tmp_path / "scores.unlearned.json")
    assert unlearned["scores"]["aggregate"] is None
    assert unlearned["reasons"]["aggregate"]


def test_without_members_the_aggregate_says_so(tmp_path):
    report = finish_run(tmp_path, {"model": answers(right=8, membership=False)})
    assert report["scores"]["model.mia.score"] is None
    assert "mia.score: no member or nonmember documents" in report["reasons"]["model.aggregate"]
    assert report["mmlu_gate"] == {"passed": None, "rule": "the target's own MMLU was not measured"}


def test_strict_is_scored_on_demand():
    responses = answers(right=8)
    scores, official = score_answers(Answers(responses=responses, evaluator=EvaluatorSettings()))
    assert official is None
    again, official = score_answers(Answers(responses=responses, evaluator=EvaluatorSettings(strict=True)))
    assert again == scores
    assert official
