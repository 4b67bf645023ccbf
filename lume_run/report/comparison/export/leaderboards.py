"""What the leaderboards of benchmarks take: their columns and files, and what a run must have been scored with.

- MUSE: the CSV that `eval.py` of swj0419/muse_bench writes, a row a model, in percent
- TOFU: the CSV that `aggregate_eval_stat.py` of locuslab/tofu writes, a row in a file
- SemEval-2025 Task 4: the folder that `evaluate_generations.py` of the organisers writes and reads
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OFFICIAL_TOKENS = 256  # of an answer in the official evaluation of SemEval-2025 Task 4
MUSE_TOKENS = 128  # of a continuation in MUSE


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardColumn:
    """A column of theirs: `factor` times the score of ours."""

    title: str
    score: str
    factor: int = 1


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """One leaderboard. `evaluator` is what makes its scores; `settings` are config values that a run must have.

    `note` says where it differs from the benchmark's own program.
    """

    name: str
    tasks: tuple[str, ...]
    evaluator: str
    settings: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    columns: tuple[BoardColumn, ...] = ()
    several: bool = False
    note: str


def _muse_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The defaults of `eval.py`, whose privacy leakage is against the paper's own retrained model."""
    suite = "evaluator.suites.muse"
    limits = {f"{suite}.verbatim_tokens": MUSE_TOKENS, f"{suite}.answer_tokens": 32, f"{suite}.k": 0.4}
    longest = config.get("evaluator.max_new_tokens") or MUSE_TOKENS
    if longest < MUSE_TOKENS:
        limits["evaluator.max_new_tokens"] = MUSE_TOKENS
    return {"task.num_documents": None, f"{suite}.published": config.get("task.corpus")} | limits


def _tofu_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"task.num_documents": None}


def _semeval_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"task.num_documents": None, "evaluator.strict": True, "evaluator.max_new_tokens": OFFICIAL_TOKENS}


TOFU_SETS = {"Real Authors": "real_authors", "Real World": "world_facts", "Retain": "retain", "Forget": "forget"}
TOFU_SCORES = {"ROUGE": "rouge", "Prob.": "probability", "Truth Ratio": "truth_ratio"}

LEADERBOARDS = {
    board.name: board
    for board in (
        Leaderboard(
            name="semeval",
            tasks=("lume",),
            evaluator="evaluator=lume evaluator.strict=true",
            settings=_semeval_settings,
            note="the shared task took code and ran it itself until January 2025: this is the folder of its own script",
        ),
        Leaderboard(
            name="tofu",
            tasks=("tofu",),
            evaluator="evaluator=tofu",
            settings=_tofu_settings,
            columns=(
                *(
                    BoardColumn(title=f"{theirs} {name}", score=f"tofu.{ours_set}.{ours}")
                    for name, ours_set in TOFU_SETS.items()
                    for theirs, ours in TOFU_SCORES.items()
                ),
                BoardColumn(title="Model Utility", score="tofu.model_utility"),
                BoardColumn(title="Forget Quality", score="tofu.forget_quality"),
            ),
            note="the released code scores 300 rows of forget and retain set at most, here it is all of them",
        ),
        Leaderboard(
            name="muse",
            tasks=("muse", "muse_raw"),
            evaluator="evaluator=muse",
            settings=_muse_settings,
            columns=(
                BoardColumn(title="verbmem_f", score="muse.forget.verbatim", factor=100),
                BoardColumn(title="privleak", score="muse.privacy_leakage"),
                BoardColumn(title="knowmem_f", score="muse.forget.knowledge", factor=100),
                BoardColumn(title="knowmem_r", score="muse.retain.knowledge", factor=100),
            ),
            several=True,
            note="the leaderboard asks beside it for the corpus, your organisation and your address",
        ),
    )
}
