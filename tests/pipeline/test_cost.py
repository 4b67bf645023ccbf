"""What a run takes by the estimate of its plan, against arithmetic on the rows."""

from __future__ import annotations

import pytest
from helpers.configs import settings_of

from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run
from lume_run.pipeline.unlearn.cost import cost_line, run_cost, total_work
from lume_run.pipeline.unlearn.work import BYTES_PER_TOKEN


def cost_of(tmp_path, *overrides: str):
    settings = settings_of("task.num_documents=2", f"output_dir={tmp_path}", "logger=none", *overrides)
    run = Run(settings, tmp_path / "run")
    return run, run_cost(run, plan(run).artifacts)


def tokens(rows) -> float:
    return sum(len(row.prompt.encode()) + len(row.answer.encode()) for row in rows) / BYTES_PER_TOKEN


def test_trainings_and_answers_by_hand(tmp_path):
    """Both sides for the target, as many kept rows as forgotten for unlearning; 6 operations a trained token."""
    run, work = cost_of(tmp_path, "method=gd", "trainer.train.epochs=3", "trainer.unlearn.epochs=2")
    both = tokens([*run.data.forget, *run.data.retain])
    assert work.trained == pytest.approx((3 + 2) * both)
    texts = sum(question.ask in ("generate", "sample") for question in run.questions)
    assert work.generated == 2 * texts * run.settings.evaluator.max_new_tokens
    parameters = work.operations / (6 * work.trained + 2 * (work.read + work.generated))
    assert parameters == pytest.approx(round(parameters)) and parameters > 10**6


def test_adapters_cost_less_and_nothing_is_due_twice(tmp_path):
    run, whole = cost_of(tmp_path, "method=npo_gd")
    assert run_cost(run, []).operations == 0
    assert total_work([whole, whole]).operations == 2 * whole.operations
    assert "GPU-hours" in cost_line(whole)
