"""The script for ten minutes on a GPU, on a CPU with the tiny shape."""

from __future__ import annotations

import importlib
import re

import pytest
from helpers.shared import ROOT

from lume_run.config.overrides import compose, conf_dir
from lume_run.methods.needs import Role
from lume_run.models.rows.tokenise import TokenRow
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.memory.launch_mode import estimator_of
from lume_run.pipeline.run import Run

OVERRIDES = ("launch.device=cpu", "trainer.unlearn.batch_size=4")


@pytest.fixture
def speed(monkeypatch):
    """A module of the script by name."""
    folder = ROOT / "scripts"
    if not folder.is_dir():
        pytest.skip("the scripts are not shipped with the package")
    monkeypatch.syspath_prepend(folder)
    return lambda name: importlib.import_module(f"speed.{name}")


@pytest.fixture
def case(speed, tmp_path):
    def written(*overrides: str, lora: bool = False):
        measured = speed("shapes").Case(shape="tiny", lora=lora, folder=tmp_path, overrides=(*OVERRIDES, *overrides))
        measured.write_model()
        return measured

    return written


def numbers(line: str) -> list[float]:
    return [float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\.?\d*(?:e[-+]\d+)?", line)]


def row(prompt: int, answer: int) -> TokenRow:
    ids = tuple(range(2, 2 + prompt + answer))
    return TokenRow(example_id="a", ids=ids, answer_start=prompt, label_start=prompt, role=Role.FORGET)


@pytest.mark.parametrize(("overrides", "backward"), [((), 2), (("model.lora=true",), 1)])
def test_flops_of_a_step_by_hand(speed, tmp_path, overrides, backward):
    """Rows of 10 and 7 tokens, 4 and 2 of them predicted; frozen weights have no gradient."""
    chosen = ["model=tiny", "method=npo_gd", f"output_dir={tmp_path}", *overrides]
    settings, _ = require_settings(compose(chosen, [conf_dir()]))
    weights = 2 * (4 * 192**2 + 3 * 192 * 768)
    expected = sum(
        tokens * (2 * weights + 4 * 2 * 192 * tokens) + labels * 2 * 192 * 1024 for tokens, labels in ((10, 4), (7, 2))
    )
    estimator = estimator_of(Run(settings, tmp_path))
    assert speed("training").step_flops(estimator, [row(6, 4), row(5, 2)]) == (1 + backward) * expected


@pytest.mark.parametrize("lora", [False, True])
def test_training(speed, case, lora):
    measured = case(lora=lora)
    lines = speed("training").training_lines(measured, steps=2, warm_up=1)
    assert lines[0] == f"tiny {'LoRA' if lora else 'full'} on CPU, float32: 1.6 M weights"
    assert lines[1].startswith("  4 + 4 rows a step, ")
    rows = [row for role in (Role.FORGET, Role.RETAIN) for row in speed("shapes").lume_rows(measured.run, 16, role)]
    tokens = numbers(lines[1])[2]
    assert tokens == pytest.approx(sum(len(row.ids) for row in rows) / 4, abs=0.5)
    seconds, rate = numbers(lines[2])[:2]
    assert rate == pytest.approx(tokens / seconds, rel=0.1)
    assert "utilisation unknown" in lines[2] and ", estimated 0." in lines[3]
    assert lines[5] == "  one step under the profiler; largest operations:"
    times = [numbers(line)[0] for line in lines[6:]]
    assert len(times) > 3 and times == sorted(times, reverse=True) and times[0] > 0


def test_evaluation(speed, case):
    measured = case()
    speeds = speed("answering").measure_answering(measured, 6)
    rows = [row for role in (Role.FORGET, Role.RETAIN) for row in speed("shapes").lume_rows(measured.run, 3, role)]
    assert [row.ids for row in speeds.rows] == [row.ids for row in rows]
    assert speeds.real == sum(len(row.ids) for row in rows)
    assert 0 < speeds.tokens <= sum(row.labels for row in rows)  # some random text may end
    assert speeds.passes >= max(1, speeds.tokens // len(rows))
    lines = speed("answering").answering_lines(measured, 6)
    assert lines[0].startswith("tiny full: evaluation of 6 prompts, ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_rows_are_as_right_as_padded_ones(speed, case, dtype):
    lines = speed("equality").equality_lines(case(f"model.dtype={dtype}"))
    apart = {line.split("  log-probs")[0].strip(): numbers(line.split("log-probs")[1]) for line in lines[1:]}
    assert max(apart.pop("packed, float32")) < 1e-4
    for packed, padded in zip(apart.get("packed, bfloat16", []), apart.get("padded, bfloat16", []), strict=True):
        assert packed < 2 * padded
    assert len(apart) == (2 if dtype == "bfloat16" else 0)


def test_gaps_between_kernels(speed):
    """Kernels that overlap leave no gap; the time before the first is none."""
    gaps = speed("gaps")
    spans = [
        gaps.Span(name="a", begin=10.0, end=20.0),
        gaps.Span(name="b", begin=12.0, end=30.0),
        gaps.Span(name="c", begin=25.0, end=28.0),
        gaps.Span(name="d", begin=31.0, end=32.0),
        gaps.Span(name="e", begin=40.0, end=41.0),
    ]
    assert gaps.idle_gaps(spans) == [(8.0, "d", "e"), (1.0, "b", "d")]
    assert gaps.idle_gaps([]) == []


def test_the_products_of_a_step_by_hand(speed):
    """Two layers of one kind and a head: each once forward, twice backward, on tokens or on labels."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 6, bias=False) for _ in range(2))
            self.head = nn.Linear(6, 11, bias=False)

        def get_output_embeddings(self):
            return self.head

    limit = speed("limit")
    rows = [row(6, 4), row(5, 2)]  # 17 tokens, 6 of them labels
    products = limit.products_of(Model(), rows)
    assert products == {(17, 4, 6): 2, (17, 6, 4): 2, (6, 17, 4): 2, (6, 6, 11): 1, (6, 11, 6): 1, (11, 6, 6): 1}
    step = limit.step_limit(Model(), [rows, rows], torch.float32)
    assert step.flops == 2 * 3 * (2 * 2 * 17 * 4 * 6 + 2 * 6 * 6 * 11)
    assert step.seconds > 0


def test_what_does_not_fit_into_the_minutes_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    throughput = importlib.import_module("throughput")
    monkeypatch.setattr(throughput, "in_own_process", lambda *_, **__: ["measured"])
    monkeypatch.setattr("sys.argv", ["throughput.py", "--shape", "tiny", "--minutes", "-1", "--folder", str(tmp_path)])
    throughput.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["tiny equality", "tiny full", "tiny LoRA", "tiny evaluation"]
    assert all("left out" in line for line in lines[:-1])


def test_growth_is_what_a_row_costs_more(speed, case):
    """And rows are as long at every size, with other tokens."""
    speed("shapes")
    growth = importlib.import_module("growth")
    assert growth.dearer([2.0, 4.0, 8.8], [1, 2, 4]) == pytest.approx([0.0, 0.0, 0.1])
    assert growth.dearer([2.0, 3.0], [2, 4]) == pytest.approx([0.0, -0.25])
    once, twice = (growth.rows_of(case(), 5, times) for times in (1, 2))
    assert sorted(len(row.ids) for row in twice) == sorted(2 * [len(row.ids) for row in once])
    assert len({row.ids for row in twice}) == len(twice) == 2 * len(once) == 20
