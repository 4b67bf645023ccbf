"""The gate on MMLU: passed, not passed, not judged, each with its rule."""

from __future__ import annotations

import pytest

from lume_run.evaluation.scoring import gate


@pytest.mark.parametrize(
    ("accuracy", "target", "floor", "passed", "reason"),
    [
        (0.371, 0.5, 0.371, True, "MMLU 0.371 against 0.371 (published threshold)"),
        (0.3709, 0.1, 0.371, False, "MMLU 0.371 against 0.371 (published threshold)"),
        (0.9, None, 0.371, True, "published threshold"),
        (0.0, None, 0.371, False, "MMLU 0.000 against 0.371"),
        (0.75, 1.0, None, True, "MMLU 0.750 against 0.750 (75% of the target's 1.000)"),
        (0.7499, 1.0, None, False, "75% of the target's 1.000"),
        (30 / 100, 40 / 100, None, True, "against 0.300"),  # although 0.75 * 0.4 > 0.3 in floating point
        (29 / 100, 40 / 100, None, False, "against 0.300"),
        (0.0, 0.0, None, True, "75% of the target's 0.000"),
        (0.5, None, None, None, "the target's own MMLU was not measured"),
        (None, 0.5, None, None, "MMLU was not measured"),
        (None, None, 0.371, None, "MMLU was not measured"),
    ],
)
def test_mmlu_gate(accuracy, target, floor, passed, reason):
    result, rule = gate(accuracy, target, floor)
    assert result is passed
    assert reason in rule
