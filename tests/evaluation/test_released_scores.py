"""The score sheets of two released codes, met by whole runs: their rows, formats and settings in, our report out.

No row is made here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.configs import settings_of
from helpers.golden import FOLDERS, GOLDEN_MARKS, NEW_TOKENS, TOKENISED, read_golden, read_rows
from helpers.shared import GOLDEN

from lume_run.pipeline.driver import run_pipeline

pytestmark = [*GOLDEN_MARKS, pytest.mark.slow]
SETS = {"forget": "forget10", "retain": "retain90"}
ASKED = {"forget": "Forget", "retain": "Retain", "real_authors": "Real Authors", "world_facts": "Real World"}
CLOSER_LOOK = {"rouge": "ROUGE", "probability": "Probability", "truth_ratio": "Truth Ratio"}
BATCH_DECIDES = 3e-3  # texts that never end: there the longest prompt of a batch says how long all of them are


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The rows of the golden evaluations as a folder of TOFU's files."""
    folder = tmp_path_factory.mktemp("tofu")
    for name in ASKED:
        rows = [{"paraphrased_question": row["question"], **row} for row in read_rows(f"lm/data/{name}.jsonl")]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        for file in (SETS.get(name), f"{'forget10' if name == 'forget' else name}_perturbed"):
            if file:
                (folder / f"{file}.jsonl").write_text(text, encoding="utf-8")
    return folder


def scores_of(model: str, data: Path, out: Path, *overrides: str) -> dict[str, float]:
    """The scores in the report of an evaluation."""
    settings = settings_of(
        "stages=[evaluate]",
        "task=tofu",
        f"task.data_dir={data}",
        "task.separator=''",
        "model=hf",
        f"model.path={GOLDEN / 'lm' / model}",
        f"model.tokenizer={GOLDEN / 'lm' / 'tokenizer'}",
        "launch.device=cpu",
        "logger=none",
        f"output_dir={out}",
        *overrides,
    )
    report = run_pipeline(settings, out / "run", identity={}, command=["test"])
    return {name: report.value("model", name) for name in report.names}


def template_of(before: str, behind: str) -> str:
    """The setting of what stands around a question."""
    text = f"{before}{{question}}{behind}".replace("\n", "\\n")
    return f"task.template='{text}'"


@pytest.mark.parametrize("model", FOLDERS)
def test_the_sheet_of_closer_look(model, data, tmp_path):
    """Judges excepted: their verdicts are stand-ins there."""
    golden = read_golden("closer_look_metrics/model_eval.json")
    tags = read_golden("closer_look_metrics/data_module.json")["model_configs"][golden["cfg"]["model_family"]]
    template = template_of(tags["question_start_tag"], tags["question_end_tag"] + tags["answer_tag"])
    total = golden["cfg"]["generation.max_length"]
    format_of = ("evaluator=closer_look_compat", f"evaluator.max_total_tokens={total}", template)
    ours = scores_of(model, data, tmp_path, *format_of)
    theirs = golden["runs"][model]["float32"]["result"]
    for split, title in ASKED.items():
        for name, theirs_name in CLOSER_LOOK.items():
            expected = pytest.approx(theirs[f"{title} {theirs_name}"], abs=1e-5)
            assert ours[f"closer_look.{split}.{name}"] == expected, (split, name)
        entropy = pytest.approx(theirs[f"{title} Token Entropy"], abs=BATCH_DECIDES)
        assert ours[f"closer_look.{split}.token_entropy"] == entropy, split


@pytest.mark.parametrize("model", FOLDERS)
def test_the_sheet_of_open_unlearning(model, data, tmp_path):
    """Its 1e-10 in every denominator and float32 losses leave 1e-5."""
    tags = read_golden(TOKENISED)["template_args"]
    template = template_of(tags["user_start_tag"], tags["user_end_tag"] + tags["asst_start_tag"])
    other = GOLDEN / "lm" / ("ref_model" if model == "model" else "model")
    suite = ("evaluator=tofu", f"evaluator.retrained_model={other}", f"evaluator.max_new_tokens={NEW_TOKENS}")
    ours = scores_of(model, data, tmp_path, *suite, template)
    golden = read_golden("open_unlearning_metrics/metrics.json")["float32"]
    theirs = golden[model]
    quality = golden["comparisons"]["forget_quality_ks_test|closer_to_1_better"]["agg_value"]  # the same both ways
    assert ours["tofu.forget_quality"] == pytest.approx(quality, rel=1e-5)
    names = {
        "forget.truth_ratio": "truth_ratio|forget|closer_to_1_better",
        **{f"{split}.probability": f"probability|{split}" for split in ("forget", "retain")},
        **{f"{split}.probability": f"probability_w_options|{split}" for split in ("real_authors", "world_facts")},
        **{f"{split}.truth_ratio": f"truth_ratio|{split}|true_better" for split in ASKED if split != "forget"},
        **{f"{split}.rouge": f"rouge|{split}|rougeL_recall" for split in ASKED},
        "model_utility": "model_utility",
    }
    for name, theirs_name in names.items():
        expected = pytest.approx(theirs[theirs_name]["agg_value"], rel=1e-5, abs=1e-5)
        assert ours[f"tofu.{name}"] == expected, name
