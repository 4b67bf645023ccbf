"""Every score has one definition: names of all suites, directions by side and set, and the table of the docs."""

from __future__ import annotations

import json
import re

import pytest
from helpers.shared import ROOT

from lume_run.evaluation.catalogue import (
    BEGIN,
    END,
    STUDY_FILE,
    catalogue_table,
    definition_of,
    main,
    read_findings,
    with_table,
)
from lume_run.evaluation.definitions import PLACEHOLDERS, ScoreGroup, Wanted
from lume_run.evaluation.entries.scores import CATALOGUE

DOCS = ROOT / "docs" / "metrics.md"
SETS = ("forget", "retain", "real_authors", "world_facts")
MEANS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine", "entailment")
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference", "gradient_norm")
NAMES = [
    *(f"closer_look.{name}.{mean}" for name in SETS for mean in MEANS),
    *("closer_look.model_utility", "closer_look.model_utility_retain", "closer_look.forget_efficacy"),
    *(f"tofu.{name}.{mean}" for name in SETS for mean in ("probability", "rouge", "truth_ratio")),
    *("tofu.forget.truth_ratio_arithmetic", "tofu.forget.truth_probability", "tofu.forget_quality"),
    *("tofu.model_utility", "muse.privacy_leakage", "mia.auc", "mia.score", "mmlu.accuracy"),
    *(f"muse.{side}.{what}" for side in ("forget", "retain") for what in ("verbatim", "knowledge")),
    *(f"mia.{attack}.{what}" for attack in ATTACKS for what in ("auc", "tpr")),
    *(f"pii.{side}.greedy.ssn.{what}" for side in ("forget", "retain") for what in ("exact", "partial")),
    *(f"pii.{side}.hint25.{what}" for side in ("forget", "retain") for what in ("exact", "partial", "people")),
    *(
        "llm_judge.forget.accuracy",
        "llm_judge.agreement.exact",
        "pii.forget.greedy.control",
        "perplexity",
        "nq_open.exact_match",
        "task_aggregate",
        "aggregate",
    ),
    *(
        f"halueval.{part}.{what}"
        for part in ("qa", "dialogue", "summarization", "general")
        for what in ("accuracy", "answered", "choice_accuracy")
    ),
    *("lm_eval.arc_challenge.acc_norm", "lm_eval.wikitext.word_perplexity", "lm_eval.gsm8k.exact_match.strict-match"),
    *(f"{side}.bios.{what}" for side in ("forget", "retain") for what in ("regurgitation", "knowledge")),
    *(
        f"{side}.{what}"
        for side in ("forget", "retain")
        for what in ("regurgitation", "knowledge", "probability", "exact_memorisation", "extraction_strength")
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_score_has_a_definition(name):
    definition = definition_of(name)
    assert definition is not None
    assert definition.what and definition.source
    assert definition.wanted is not Wanted.BY_SIDE
    assert definition.group not in (ScoreGroup.BY_SIDE, ScoreGroup.PRIVACY_BY_SIDE, ScoreGroup.OTHER)


@pytest.mark.parametrize(
    ("name", "wanted", "group"),
    [
        ("forget.bios.knowledge", "lower", "forget"),
        ("forget.regurgitation", "lower", "forget"),
        ("retain.wiki.knowledge", "higher", "retain"),
        ("mia.auc", "0.5", "privacy"),
        ("mia.zlib.auc", "0.5", "privacy"),
        ("mia.zlib.tpr", "lower", "privacy"),
        ("mia.score", "higher", "privacy"),
        ("mmlu.accuracy", "higher", "utility"),
        ("aggregate", "higher", "overall"),
        ("closer_look.forget.rouge", "lower", "forget"),
        ("closer_look.world_facts.rouge", "higher", "retain"),
        ("closer_look.forget.token_entropy", "higher", "forget"),  # a fluent answer, whatever it says
        ("closer_look.forget.truth_ratio", "lower", "forget"),
        ("closer_look.retain.truth_ratio", "higher", "retain"),
        ("tofu.forget.truth_ratio", "higher", "forget"),  # the reverse of closer look's
        ("tofu.real_authors.truth_ratio", "higher", "retain"),
        ("tofu.forget.truth_probability", "0.5", "forget"),
        ("muse.privacy_leakage", "0", "privacy"),
        ("pii.forget.greedy.exact", "lower", "privacy"),
        ("pii.retain.greedy.exact", "higher", "retain"),
        ("pii.forget.greedy.control", "", "privacy"),
        ("perplexity", "lower", "utility"),
        ("lm_eval.wikitext.bits_per_byte", "lower", "utility"),
        ("lm_eval.arc_easy.acc", "higher", "utility"),
    ],
)
def test_direction_and_group_follow_side_and_set(name, wanted, group):
    definition = definition_of(name)
    assert (definition.wanted, definition.group) == (wanted, group)


@pytest.mark.parametrize("name", ["mine.own", "forget", "closer_look.holdout.rouge", "mia.other.auc", "aggregate.x"])
def test_other_names_have_none(name):
    assert definition_of(name) is None


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.pattern)
def test_no_pattern_hides_another(entry):
    def filled(match: re.Match) -> str:
        choice = PLACEHOLDERS.get(match[1], ("x",))[-1]
        return "x" if choice == ".+" else choice

    assert definition_of(re.sub(r"<(\w+)>", filled, entry.pattern)).pattern == entry.pattern


def test_bounds_and_detail_are_sound():
    assert all(entry.low is None or entry.high is None or entry.low < entry.high for entry in CATALOGUE)
    assert {entry.detail for entry in CATALOGUE} == {0, 1, 2}


def test_the_docs_hold_the_table():
    page = DOCS.read_text(encoding="utf-8")
    assert with_table(page, read_findings(DOCS.parent)) == page, (
        "run python -m lume_run.evaluation.catalogue docs/metrics.md"
    )


def test_the_table_is_written_between_its_marks(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    main([str(page)])
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\n{catalogue_table()}\n\n{END}\nafter\n"
    main([])
    assert capsys.readouterr().out == catalogue_table() + "\n"
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("a page without marks")


def test_a_row_of_the_table():
    rows = catalogue_table().split("\n")
    assert (
        "| `mia.score` | MIA | 1 - 2 abs(`mia.auc` - 0.5) | 0 to 1 | higher | privacy | SemEval-2025 Task 4, "
        in next(row for row in rows if "mia.score" in row)
    )
    assert len({row.count("|") for row in rows}) == 1
    assert "| from -100 | 0 | privacy |" in next(row for row in rows if "muse.privacy_leakage" in row)


def test_the_table_says_what_the_study_found(tmp_path):
    """One score with its interval; of several of one entry the range; R and Q where they have a number."""

    def row(area: float, relearning: float | None = None) -> dict:
        known = relearning and {"value": relearning, "low": None, "high": None, "n": 1}
        return {"faithfulness": {"value": area, "low": 0.5, "high": 1.0}, "relearning": known, "quantisation": None}

    findings = {"forget.probability": row(0.875, 0.25), "mia.loss.auc": row(0.9), "mia.zlib.auc": row(0.75)}
    (tmp_path / STUDY_FILE).write_text(json.dumps({"findings": findings}), encoding="utf-8")
    lines = {line.split("|")[1].strip(): line for line in catalogue_table(read_findings(tmp_path)).split("\n")}
    assert lines["`<side>.probability`"].endswith("| 0.88 [0.50, 1.00], R 0.25 |")
    assert lines["`mia.<attack>.auc`"].endswith("| 0.75 to 0.90 |")
    assert lines["`perplexity`"].endswith("|  |")
