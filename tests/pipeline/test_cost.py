"""What a run takes by the estimate of its plan, against arithmetic on the rows."""

from __future__ import annotations

import json

import pytest
from helpers.configs import settings_of

from lume_run.pipeline.memory.cost import (
    ADAPTERS_TRAINED,
    BYTES_PER_TOKEN,
    GENERATED,
    READ,
    WEIGHTS_TRAINED,
    Cost,
    run_cost,
)
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run

BIOS = "task.num_documents=2"
QUICK = ("trainer.train.epochs=3", "trainer.unlearn.epochs=2")


def cost_of(tmp_path, *overrides: str) -> tuple[Run, Cost]:
    settings = settings_of(f"output_dir={tmp_path}", "logger=none", *overrides)
    run = Run(settings, tmp_path / "run")
    cost = run_cost(run, plan(run).artifacts)
    assert cost is not None
    return run, cost


def tokens(rows) -> float:
    return sum(len(row.prompt.encode()) + len(row.answer.encode()) for row in rows) / BYTES_PER_TOKEN


def test_trainings_and_answers_by_hand(tmp_path):
    """Both sides for the target, as many kept rows as forgotten for unlearning; 6 operations a trained token."""
    run, cost = cost_of(tmp_path, BIOS, "method=gd", *QUICK)
    both = tokens([*run.data.forget, *run.data.retain])
    assert cost.tokens[WEIGHTS_TRAINED] == pytest.approx((3 + 2) * both)
    texts = sum(question.ask in ("generate", "sample") for question in run.questions)
    assert cost.tokens[GENERATED] == 2 * texts * run.settings.evaluator.max_new_tokens
    forwards = 6 * cost.tokens[WEIGHTS_TRAINED] + 2 * (cost.tokens[READ] + cost.tokens[GENERATED])
    parameters = cost.operations / forwards
    assert parameters == pytest.approx(round(parameters)) and parameters > 10**6


@pytest.mark.parametrize(
    ("sequence", "passes", "models"),  # how often a row is forgotten; how many models answer all there is to ask
    [("in_turn", 1, 3), ("growing", 1.5, 3), ("apart", 1, 2)],
)
def test_each_request_takes_its_rows(sequence, passes, models, tmp_path):
    """Two requests, a document each; every model is asked everything, apart about its own document alone."""
    answers = {"Ada": "a lighthouse keeper", "Bo": "a breeder of sheep"}
    rows = [{"question": f"Who is {who}?", "answer": f"{what}.", "document": who} for who, what in answers.items()]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    custom = ("task=custom", f"task.forget={tmp_path}/forget.jsonl", "evaluator=memorisation", "method=ga", *QUICK)
    _, alone = cost_of(tmp_path, *custom)
    run, cost = cost_of(tmp_path, *custom, f"sequence={sequence}", "sequence.requests=2")
    forget = tokens(run.data.forget)
    assert alone.tokens[WEIGHTS_TRAINED] == pytest.approx((3 + 2) * forget)
    assert cost.tokens[WEIGHTS_TRAINED] == pytest.approx((3 + 2 * passes) * forget, rel=0.05)  # rows are about as long
    assert cost.tokens[GENERATED] == alone.tokens[GENERATED] * models / 2
    assert cost.tokens[READ] == pytest.approx(alone.tokens[READ] * models / 2)


def test_an_attack_trains_further(tmp_path):
    _, plain = cost_of(tmp_path, BIOS, "method=ga", *QUICK)
    _, attacked = cost_of(tmp_path, BIOS, "method=ga", *QUICK, "attack=relearn")
    assert attacked.tokens[WEIGHTS_TRAINED] > plain.tokens[WEIGHTS_TRAINED]
    assert attacked.tokens[GENERATED] > plain.tokens[GENERATED]


def test_adapters_cost_less_and_nothing_is_due_twice(tmp_path):
    run, whole = cost_of(tmp_path, BIOS, "method=npo_gd", *QUICK)
    assert run_cost(run, []) == Cost()
    assert sum([whole, whole], Cost()).operations == 2 * whole.operations
    assert "GPU-hours" in str(whole)
    shown = str(Cost(tokens={READ: 52.3, GENERATED: 3812.0, WEIGHTS_TRAINED: 1.2345e6, ADAPTERS_TRAINED: 0.0}))
    assert shown.startswith("tokens: 1.23 M trained on, 52.3 read, 3.81 k generated at most; 0 operations")
    _, adapted = cost_of(tmp_path, BIOS, "method=npo_gd", "model.lora=true", *QUICK)
    unlearning = whole.tokens[WEIGHTS_TRAINED] - adapted.tokens[WEIGHTS_TRAINED]  # the random model is taught whole
    assert adapted.tokens[ADAPTERS_TRAINED] == pytest.approx(unlearning)
