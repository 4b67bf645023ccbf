"""Test the scores themselves: which tell models that learned the forget set from models that did not, and which last?

    OMP_NUM_THREADS=1 python scripts/metrics_study.py [--models 60] [--unlearned ga gd ...] [--seeds 0]
                                                      [--out outputs/results-metrics.md]

A pool of 30 + 30 small models, all from one base, each trained with or without the forget set; then unlearned models
that are fine-tuned again and quantised (open-unlearning's study, arXiv:2506.12618, on the built-in biographies). Every
model is a run in `outputs` and in the store, so the same command goes on where it was. The numbers of every model are
in a file beside the page (`.json`), from which the table is written, and which `docs/metrics.md` is written from:

    python -m lume_run.evaluation.catalogue docs/metrics.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from metric_quality.numbers import keeps_enough, robustness_of, sign_of
from metric_quality.pool import METHODS, References, attacked_report, entries_of, pool_scores
from metric_quality.table import Study, write_page

from lume_run.report.write import Report


def forget_scores(scores: dict[str, float]) -> dict[str, float]:
    """Those that are about what was to be forgotten."""
    return {name: round(value, 6) for name, value in scores.items() if sign_of(name) is not None}


def unlearned_record(report: Report) -> dict[str, object]:
    """What is kept of an unlearned model: whether it is still of use, and what its attacks showed."""
    values = {
        subject: {name: score.value for name, score in scores.items()} for subject, scores in report.scores.items()
    }
    assert report.attacks is not None
    shown = robustness_of(report.attacks)
    return {
        "keeps": keeps_enough(values["unlearned"], values["target"]),
        "scores": {
            name: [robust.known, robust.relearning, robust.quantisation] for name, robust in sorted(shown.items())
        },
    }


def main() -> None:
    """Train what is missing, and write numbers and page after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=len(entries_of()), help="of the pool, in turn of both halves")
    parser.add_argument("--unlearned", nargs="*", default=METHODS, help="methods whose models are attacked")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="of the unlearned models")
    parser.add_argument("--out", type=Path, default=Path("outputs/results-metrics.md"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    numbers = given.out.with_suffix(".json")
    study = Study.read(numbers)
    references = References.trained()
    for entry in entries_of()[: given.models]:
        if entry.name not in study.pool:
            study.pool[entry.name] = {"knows": entry.knows, "scores": forget_scores(pool_scores(entry, references))}
            study.write(numbers)
            print(entry.name, f"{len(study.pool)} models", flush=True)
    for seed in given.seeds:
        for method in given.unlearned:
            if f"{method} {seed}" not in study.unlearned:
                report = attacked_report(method, seed, references)
                study.unlearned[f"{method} {seed}"] = unlearned_record(report)
                study.write(numbers)
                print(method, seed, flush=True)
    write_page(given.out, study)
    print(json.dumps({"page": str(given.out), "models": len(study.pool), "unlearned": len(study.unlearned)}))


if __name__ == "__main__":
    main()
