"""Groups over seeds, the best of every column, fronts, and published rows: arithmetic that can be redone by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from helpers import sweeps
from helpers.shared import SHARED

from lume_run.evaluation.catalogue import definition_of
from lume_run.report.comparison.columns import badness, best_positions
from lume_run.report.comparison.configs import settings_label, short_path
from lume_run.report.comparison.fronts import PLANES, pareto_front, planes_of
from lume_run.report.comparison.page.data import sort_tables
from lume_run.report.comparison.plots.charts import build_charts
from lume_run.report.comparison.plots.curves import setting_effects
from lume_run.report.comparison.published import PublishedTable, published_tables, tables_for
from lume_run.report.comparison.run_folders import collect_runs
from lume_run.report.comparison.summary import summarise


def sections_of(folder: Path, sort: str = ""):
    return summarise(collect_runs([folder]).runs, sort)


def test_seeds_make_a_group_with_mean_and_deviation(tmp_path):
    for seed, forget in enumerate((0.1, 0.3)):
        config = sweeps.config(seed=seed, output_dir=f"/machine{seed}", launch__name="ddp" if seed else "single")
        sweeps.write_run(tmp_path, config, sweeps.scores(forget, 0.8))
    sweeps.write_run(tmp_path, sweeps.config(rate=2e-5), sweeps.scores(0.0, 0.5))
    (section,) = sections_of(tmp_path)
    assert section.title == "bios on tiny"
    by_label = {group.label: group for group in section.groups}
    assert set(by_label) == {"npo_gd learning_rate=0.0001", "npo_gd learning_rate=2e-05"}
    values = by_label["npo_gd learning_rate=0.0001"].values
    assert (values["forgotten"].mean, values["forgotten"].n) == (pytest.approx(0.8), 2)
    assert values["forgotten"].deviation == pytest.approx(math.sqrt(0.02))  # of 0.9 and 0.7, over n - 1
    assert (values["kept"].mean, values["kept"].deviation) == (pytest.approx(0.8), pytest.approx(0))
    balance = (2 / (1 / 0.9 + 1 / 0.8) + 2 / (1 / 0.7 + 1 / 0.8)) / 2
    assert values["balance"].mean == pytest.approx(balance)
    assert values["cost.seconds"].mean == 10.0
    assert (values["cost.seconds_per_step"].mean, values["cost.peak_gib"].mean) == (0.25, 1.0)
    single = by_label["npo_gd learning_rate=2e-05"].values["kept"]
    assert (single.mean, single.deviation, single.n) == (0.5, None, 1)
    assert section.references["target"]["forgotten"] == 0.0
    assert section.references["retrained"]["kept"] == pytest.approx(0.98)


def test_a_failed_run_counts_in_no_mean(tmp_path):
    sweeps.write_run(tmp_path, sweeps.config(seed=0), sweeps.scores(0.2, 0.8))
    sweeps.write_run(tmp_path, sweeps.config(seed=1), None, error="no memory")
    (section,) = sections_of(tmp_path)
    (group,) = section.groups
    assert (len(group.runs), group.values["kept"].n, group.values["kept"].mean) == (2, 1, pytest.approx(0.8))


def test_only_runs_of_one_task_on_one_model_are_compared(tmp_path):
    for task, few in (("bios", None), ("bios", 2), ("novels", None)):
        sweeps.write_run(tmp_path, sweeps.config(task=task, task__num_documents=few), sweeps.scores(0.1, 0.9))
    sweeps.write_run(tmp_path, sweeps.config(model__lora__enabled=True), sweeps.scores(0.1, 0.9))
    sections = sections_of(tmp_path)
    assert [(section.title, len(section.runs)) for section in sections] == [
        ("bios on tiny (num_documents=null)", 2),
        ("bios on tiny (num_documents=2)", 1),
        ("novels on tiny", 1),
    ]
    assert {group.label for group in sections[0].groups} == {"npo_gd enabled=false", "npo_gd enabled=true"}


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("retain.knowledge", [0.1, 0.9, 0.9], (1, 2)),  # higher
        ("forget.knowledge", [0.1, None, 0.9], (0,)),  # lower
        ("mia.auc", [0.3, 0.65, 1.0], (1,)),  # towards 0.5
        ("muse.privacy_leakage", [-30.0, 20.0, 90.0], (1,)),  # towards 0
        ("pii.forget.greedy.control", [0.1, 0.2], ()),  # a check has no direction
        ("somebody.elses", [0.1, 0.2], ()),
        ("balance", [0.1, 0.2], (1,)),
        ("cost.seconds", [5.0, 4.0], (1,)),
        ("retain.knowledge", [0.5, 0.5], ()),  # nothing to tell apart
        ("retain.knowledge", [0.5, None], ()),
    ],
)
def test_best_by_the_direction_of_the_catalogue(name, values, best):
    assert best_positions(name, values) == best


def test_references_and_models_below_the_gate_win_nothing(tmp_path):
    below = {"mmlu_gate": {"passed": False, "rule": "below 0.371"}}
    sweeps.write_run(tmp_path, sweeps.config("ga"), sweeps.scores(0.0, 0.99), report=below)
    sweeps.write_run(tmp_path, sweeps.config("retrain"), sweeps.scores(0.0, 1.0))
    sweeps.write_run(tmp_path, sweeps.config("none"), sweeps.scores(1.0, 1.0))
    sweeps.write_run(tmp_path, sweeps.config("npo_gd"), sweeps.scores(0.1, 0.8))
    sweeps.write_run(tmp_path, sweeps.config("gd"), sweeps.scores(0.3, 0.9))
    (section,) = sections_of(tmp_path)
    order = [group.label for group in section.groups]
    assert order == ["retrain", "ga", "npo_gd", "gd", "none"]  # shown in order of the aggregate
    assert [order[place] for place in section.best["task_aggregate"]] == ["npo_gd"]
    assert [order[place] for place in section.best["kept"]] == ["gd"]
    assert [group.label for group in section.ranking] == ["npo_gd", "gd"]
    assert [order[place] for place in pareto_front(section, PLANES[0])] == ["gd", "npo_gd"]


def test_sorting(tmp_path):
    sweeps.write_run(tmp_path, sweeps.config("gd"), sweeps.scores(0.2, 0.8, **{"mia.auc": 0.9}))
    sweeps.write_run(tmp_path, sweeps.config("ga"), sweeps.scores(0.5, 0.9, **{"mia.auc": 0.4}))
    assert [group.label for group in sections_of(tmp_path)[0].groups] == ["gd", "ga"]
    by_auc = sections_of(tmp_path, "mia.auc")[0]
    assert (by_auc.sort, [group.label for group in by_auc.groups]) == ("mia.auc", ["ga", "gd"])
    with pytest.raises(ValueError, match=r"no run has the score 'mia\.ac'.*task_aggregate"):
        sections_of(tmp_path, "mia.ac")


def test_without_an_aggregate_the_balance_sorts_and_breaks_ties(tmp_path):
    for method, forget, retain in (("gd", 0.2, 0.8), ("ga", 0.2, 0.9)):
        after = {name: value for name, value in sweeps.scores(forget, retain).items() if name != "task_aggregate"}
        sweeps.write_run(tmp_path / "without", sweeps.config(method), after)
        sweeps.write_run(tmp_path / "tied", sweeps.config(method), after | {"task_aggregate": 0.0})
    without, tied = (sections_of(tmp_path / name)[0] for name in ("without", "tied"))
    assert (without.sort, tied.sort) == ("balance", "task_aggregate")
    assert [group.label for group in without.groups] == [group.label for group in tied.groups] == ["ga", "gd"]


def test_all_of_a_section_are_measured_by_the_same_scores(tmp_path):
    tofu = {
        "tofu.forget.rouge": 0.2,
        "tofu.forget.probability": 0.4,
        "tofu.retain.rouge": 0.5,
        "tofu.retain.probability": 1.0,
    }
    sweeps.write_run(tmp_path, sweeps.config("gd", task="tofu"), tofu)
    sweeps.write_run(tmp_path, sweeps.config("ga", task="tofu"), tofu | sweeps.scores(0.0, 1.0))
    sweeps.write_run(tmp_path, sweeps.config("npo", task="tofu"), tofu)
    (section,) = sections_of(tmp_path)
    assert section.basis.name == "TOFU"
    for group in section.groups:
        assert group.mean("forgotten") == pytest.approx(0.7)
        assert group.mean("kept") == pytest.approx(2 / 3)


def test_front(tmp_path):
    places = {"a": (0.1, 0.5), "b": (0.2, 0.8), "c": (0.2, 0.7), "d": (0.5, 0.95), "e": (0.6, 0.95), "f": (0.1, 0.4)}
    for method, (forget, retain) in places.items():
        sweeps.write_run(tmp_path, sweeps.config(method), sweeps.scores(forget, retain))
    (section,) = sections_of(tmp_path)
    (plane,) = planes_of(section)
    assert [section.groups[place].method for place in pareto_front(section, plane)] == ["d", "b", "a"]


def test_labels():
    paths = ["trainer.unlearn.learning_rate", "trainer.train.learning_rate", "method.forget.beta"]
    assert [short_path(path, paths) for path in paths] == ["unlearn.learning_rate", "train.learning_rate", "beta"]
    assert (
        settings_label({"a.x": 1e-5, "b.x": None, "c.z": [1, 2], "evaluator.y": True})
        == "a.x=1e-05 b.x=null z=[1,2] y=true"
    )
    assert settings_label({f"p{number}": number for number in range(6)}) == "p0=0 p1=1 p2=2 p3=3 (+2 settings)"


def test_lines_of_a_setting_join_groups_that_agree_in_all_else(tmp_path):
    for rate in (1e-5, 1e-4):
        for beta in (0.1, 0.5):
            config = sweeps.config(rate=rate, method__forget__beta=beta)
            sweeps.write_run(tmp_path, config, sweeps.scores(0.5 if rate < 5e-5 else beta, 0.9))
    sweeps.write_run(tmp_path, sweeps.config("ga", rate=1e-5), sweeps.scores(0.3, 0.9))
    (section,) = sections_of(tmp_path)
    effects = setting_effects(section)
    assert set(effects) == {"trainer.unlearn.learning_rate", "method.forget.beta"}
    ((label, points),) = effects["trainer.unlearn.learning_rate"]  # of the two betas the one that reaches more
    assert label == "npo_gd beta=0.1"
    assert [x for x, _ in points] == [1e-5, 1e-4]
    assert points[0][1].mean < points[1][1].mean


# --------------------------------------------------------------------------------------------------- published


def test_published_rows_are_well_formed():
    tables = published_tables()
    assert len({table.id for table in tables}) == len(tables)
    for table in tables:
        assert table.source
        assert table.how
        for name, values in table.rows:
            assert name
            for score, value in values.items():
                definition = definition_of(score)
                if table.beside:
                    assert definition is None and 0 <= value <= 1, score  # a score of theirs, within 0 to 1
                    assert all(map(definition_of, table.beside))
                    continue
                assert definition is not None, score
                assert definition.low is None or value >= definition.low
                assert definition.high is None or value <= definition.high


def test_published_numbers_are_those_of_the_survey():
    survey = SHARED / "FIELD.md"
    if not survey.exists():
        pytest.skip("the survey the numbers were copied from is not here")
    section = survey.read_text(encoding="utf-8").partition("# 4. PUBLISHED")[2].partition("\n# 5.")[0].replace("−", "-")
    numbers = {float(number) for number in re.findall(r"(?<![\d.])-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?", section)}
    elsewhere = ("muse-", "rwku-", "uds-", "asu-", "closer-look-real-world", "semeval-1b")  # the tests below
    tables = [table for table in published_tables() if not table.attacks and not table.id.startswith(elsewhere)]
    copied = [value for table in tables for value in values_of(table)]
    assert len(copied) > 350
    assert [value for value in copied if value not in numbers] == []


def values_of(table: PublishedTable) -> list[float]:
    return [value for _, values in table.rows for value in values.values()]


def test_final_scores_of_semeval_are_the_means_that_they_are():
    """The official site rounds to three digits, which a wrong digit anywhere would not survive."""
    parts = ("task_aggregate", "mia.score", "mmlu.accuracy")
    tables = [table for table in published_tables() if set(parts) <= set(table.scores)]
    assert [len(table.rows) for table in tables if table.id == "semeval-1b"] == [24]
    for table in tables:
        for name, values in table.rows:
            assert values["aggregate"] == pytest.approx(sum(values[part] for part in parts) / 3, abs=1.1e-3), (
                table.id,
                name,
            )


@pytest.mark.parametrize("prefix", ["asu-", "closer-look-real-world"])
def test_numbers_at_second_hand_are_those_of_the_survey(prefix):
    """Percent there, or as they are."""
    pages = [SHARED / name for name in ("FIELD.md", "PROTOCOLS.md")]
    if not all(page.exists() for page in pages):
        pytest.skip("the pages the numbers were copied from are not here")
    text = " ".join(page.read_text(encoding="utf-8") for page in pages)
    numbers = {float(number) for number in re.findall(r"(?<![\d.])(?:\d+\.\d+|\.\d+)", text)}
    copied = [value for table in published_tables() if table.id.startswith(prefix) for value in values_of(table)]
    assert copied
    assert [value for value in copied if not {value, round(100 * value, 2)} & numbers] == []


def test_parts_of_the_overall_score_give_the_published_one():
    """Of the retrained model, whose UDS of 1 changes nothing: the overall score has UDS in it, the parts have not."""
    tables = {table.id: dict(table.rows) for table in published_tables()}
    overall, parts = tables["uds-methods-forget10-1b"], tables["uds-parts-forget10-1b"]
    assert overall.keys() <= parts.keys()
    three = list(parts["retrained"].values())
    assert 3 / sum(1 / part for part in three) == pytest.approx(overall["retrained"]["overall"], abs=2e-3)


def test_numbers_of_muse_are_those_of_the_protocols():
    """Percent there, fractions here but for the privacy leakage."""
    protocols = SHARED / "PROTOCOLS.md"
    if not protocols.exists():
        pytest.skip("the protocols the numbers were copied from are not here")
    text = protocols.read_text(encoding="utf-8").partition("| target |")[2].partition("\n\n")[0].replace("−", "-")
    lines = [re.findall(r"-?\d+\.?\d*", line.partition("|")[2]) for line in f"target |{text}".splitlines()]
    for column, corpus in enumerate(("news", "books")):
        (table,) = (table for table in published_tables() if table.id == f"muse-{corpus}")
        published = [tuple(map(float, line[4 * column : 4 * column + 4])) for line in lines]
        columns = ("forget.verbatim", "forget.knowledge", "privacy_leakage", "retain.knowledge")
        percent = [100 - 99 * (column == "privacy_leakage") for column in columns]
        ours = [
            tuple(scale * row[f"muse.{column}"] for scale, column in zip(percent, columns, strict=True))
            for _, row in table.rows
        ]
        assert [pytest.approx(row) for row in published] == ours


def test_numbers_of_robustness_are_those_of_the_protocols():
    protocols = SHARED / "PROTOCOLS.md"
    if not protocols.exists():
        pytest.skip("the protocols the numbers were copied from are not here")
    text = protocols.read_text(encoding="utf-8")
    numbers = {float(number) for number in re.findall(r"(?<![\d.])(?:\d+\.\d+|\.\d+|\d+)", text)}
    of_robustness = [table for table in published_tables() if table.attacks or table.id == "uds-methods-forget10-1b"]
    of_wmdp = [dict(table.rows) for table in of_robustness if table.task == "wmdp"]
    assert len(of_wmdp) == 6  # more of the same source than the protocols quote: the order is all that shows a slip
    for rows in of_wmdp:
        before, best, theirs = (values["answer_probability"] for values in rows.values())
        assert before > best > theirs
    copied = [value for table in of_robustness if table.task != "wmdp" for value in values_of(table)]
    assert len(copied) == 9 + 44 + 9
    assert [value for value in copied if value not in numbers] == []


def test_numbers_of_rwku_are_those_of_the_protocols_by_100(tmp_path):
    protocols = SHARED / "PROTOCOLS.md"
    tables = {table.id: table for table in published_tables() if table.id.startswith("rwku-")}
    if protocols.exists():
        numbers = set(re.findall(r"\d+\.\d", protocols.read_text(encoding="utf-8")))
        copied = [value for table in tables.values() for value in values_of(table)]
        assert [value for value in copied if f"{100 * value:.1f}" not in numbers] == []
    assert dict(tables["rwku-llama-3-8b"].rows)["ICU"]["rwku.forget.all"] == 0.128
    shown = {}
    for name in ("llama-3-8b", "phi-3-mini", "smollm2-135m"):
        suites = {"rwku": {"compat": True}}
        config = sweeps.config(task="rwku", model__name=name, evaluator__suites=suites)
        sweeps.write_run(tmp_path / name, config, {"rwku.forget.all": 0.5})
        (section,) = sections_of(tmp_path / name)
        shown[name] = [table.id for table in tables_for(section)]
    assert shown == {"llama-3-8b": ["rwku-llama-3-8b"], "phi-3-mini": ["rwku-phi-3-mini"], "smollm2-135m": []}


def test_rwku_has_its_own_forgotten_and_kept(tmp_path):
    scores = {"rwku.forget.all": 0.3, "rwku.neighbor.all": 0.8}
    sweeps.write_run(tmp_path, sweeps.config(task="rwku"), scores)
    (section,) = sections_of(tmp_path)
    values = {name: spread.mean for name, spread in section.ranking[0].values.items()}
    assert (values["forgotten"], values["kept"]) == (pytest.approx(0.7), pytest.approx(0.8))


def test_scores_that_nothing_is_known_of_have_no_plot(tmp_path):
    sweeps.write_run(tmp_path, sweeps.config(), {"somebodys.own": 0.5})
    assert [chart.name for chart in build_charts(sections_of(tmp_path)) if chart.name == "scores"] == []


def test_robustness_rows_stand_beside_attacked_runs_of_the_same_task_only(tmp_path):
    """Of the same attack too; not among the tables that a report of other tasks lists."""
    tries = {"attack__attacks": {"relearn": {"held_out": False}}}
    configs = {
        "attacked": sweeps.config(task="rwku", **tries),
        "plain": sweeps.config(task="rwku"),
        "prompted": sweeps.config(task="rwku", attack__attacks={"prefill": {"texts": {"sure": "Sure"}}}),
        "other": sweeps.config(task="bios", **tries),
        "tofu": sweeps.config(task="tofu", task__split="forget10", **tries),
    }
    shown = {}
    for name, config in configs.items():
        sweeps.write_run(tmp_path / name, config, sweeps.scores(0.1, 0.9, **{"forget.probability": 0.2}))
        sections = sections_of(tmp_path / name)
        shown[name] = [table.id for table in tables_for(sections[0]) if table.attacks]
        listed = [table.id for table in sort_tables(sections) if table.attacks]
        assert listed == shown[name]
    rwku = [f"repselect-rwku-{name}" for name in ("llama-3.1-8b", "qwen3.5-9b", "deepseek-v2-lite")]
    assert shown == {
        "attacked": rwku,
        "plain": [],
        "prompted": [],
        "other": [],
        "tofu": ["uds-metrics-forget10-1b"],
    }
    tables = {table.id: table for table in published_tables()}
    assert tables[rwku[0]].titles == ["forget.probability after relearn"]
    assert dict(tables[rwku[0]].rows)["RepSelect"] == {"forget.probability": 0.5513}
    assert tables["uds-methods-forget10-1b"].titles == ["overall"]


def test_some_published_rows():
    by_id = {table.id: dict(table.rows) for table in published_tables()}
    assert by_id["semeval-7b"]["AILS-NTUA"] == {
        "aggregate": 0.706,
        "task_aggregate": 0.827,
        "mia.score": 0.847,
        "mmlu.accuracy": 0.443,
    }
    assert by_id["semeval-7b-baselines"]["NPO"]["aggregate"] == 0.188
    assert by_id["closer-look-forget10"]["ME+GD"] == {
        "closer_look.model_utility": 0.7357,
        "closer_look.forget_efficacy": 0.9489,
    }
    assert by_id["open-unlearning-forget01-7b"]["RMU"]["tofu.forget_quality"] == 0.4
    assert by_id["open-unlearning-muse-news"]["NPO"]["muse.privacy_leakage"] == -86.0


def test_published_rows_stand_beside_runs_of_the_same_thing_only(tmp_path):
    after = {"tofu.forget_quality": 0.2, "tofu.model_utility": 0.5}
    for number, (task, split) in enumerate((("tofu", "forget05"), ("bios", "all"), ("lume", "all"))):
        config = sweeps.config(task=task, task__split=split)
        sweeps.write_run(tmp_path / str(number), config, after if task == "tofu" else sweeps.scores(0.1, 0.9))
    tofu, bios, lume = ([table.id for table in tables_for(sections_of(tmp_path / str(at))[0])] for at in range(3))
    assert tofu == ["open-unlearning-forget05-1b", "open-unlearning-forget05-7b"]
    assert bios == []
    of_sites = ["semeval-7b", "semeval-7b-out", "semeval-7b-baselines", "semeval-1b"]
    assert lume == [*of_sites, "semeval-zjuklab-local"]  # runs without an aggregate


def test_published_overall_scores_stand_beside_runs_that_have_one(tmp_path):
    config = sweeps.config(task="tofu", task__split="forget10")
    sweeps.write_run(tmp_path, config, {"open_unlearning.overall": 0.5, "open_unlearning.privacy": 0.4})
    (section,) = sections_of(tmp_path)
    assert [table.id for table in tables_for(section)] == ["uds-methods-forget10-1b", "uds-parts-forget10-1b"]


def test_badness_orders_by_direction():
    assert badness("mia.auc", 0.2) == pytest.approx(badness("mia.auc", 0.8))
    assert badness("forget.knowledge", 0.1) < badness("forget.knowledge", 0.2)
    assert badness("retain.knowledge", 0.2) < badness("retain.knowledge", 0.1)
