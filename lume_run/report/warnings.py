"""What a report warns of: trainings that ended early, a target that knows too little, answers of other scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lume_run.common.records import Response, Score
from lume_run.evaluation.metrics.answers import PUBLISHED_SUBTASKS, is_of_other_script

MEMORISED_SCORE = 0.9  # below this, a target has too little to forget


def ending_warnings(training: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Optimisations that ended before their last step, and why."""
    return tuple(
        f"{name} {ending.upper()}: {outcome[ending]}, after {outcome['steps']} of {outcome['planned_steps']} steps"
        for name, outcome in training.items()
        for ending in ("diverged", "stopped")
        if outcome[ending]
    )


def memorisation_warnings(target: Mapping[str, Score]) -> tuple[str, ...]:
    """A warning of a target that did not learn its documents, with which forgetting cannot be seen."""
    weak = [
        f"{name} {value:.2f}"
        for name in ("forget.knowledge", "retain.knowledge", "forget.regurgitation", "retain.regurgitation")
        if name in target and (value := target[name].value) is not None and value < MEMORISED_SCORE
    ]
    warning = f"the target did not memorise its documents ({', '.join(weak)}): raise trainer.train.epochs"
    return (warning,) if weak else ()


def script_warnings(responses: Sequence[Response]) -> tuple[str, ...]:
    """A word on answers whose ROUGE is counted in other tokens than the field's."""
    texts = [row for row in responses if row.output is not None and row.subtask not in PUBLISHED_SUBTASKS]
    count = sum(is_of_other_script(row.expected) for row in texts)
    note = f"ROUGE of {count} answers that are not in Latin letters counts words or characters of their script"
    return (note,) if count else ()
