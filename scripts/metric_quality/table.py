"""The numbers of the metrics study as a file, and as the table of a page, beside those that others published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from method_table import write_table

from metric_quality.numbers import Estimate, Finding, Robustness, finding, is_reported

# Faithfulness, R, Q, robustness of TOFU and a Llama of 1B parameters (gnueaj/unlearning-depth-score, 2026).
PUBLISHED = {
    "forget.exact_memorisation": (0.817, 0.605, 0.984, 0.750),
    "forget.extraction_strength": (0.891, 0.770, 0.970, 0.859),
    "forget.probability": (0.816, 0.642, 0.924, 0.757),
    "forget.paraphrased_probability": (0.707, 0.899, 0.853, 0.875),
    "tofu.forget.truth_probability": (0.947, 0.234, 0.996, 0.379),
    "tofu.forget.rouge": (0.722, 0.203, 0.934, 0.333),
    "mia.loss.auc": (0.902, 0.519, 0.935, 0.668),
    "mia.zlib.auc": (0.867, None, None, None),
    "mia.min_k.auc": (0.907, None, None, None),
    "mia.min_k_plus_plus.auc": (0.816, None, None, None),
    "logit_lens.forget.probability": (0.927, 0.812, 0.959, 0.879),
    "uds": (0.971, 0.900, 0.968, 0.932),
}
HEAD = ("score", "faithfulness", "R", "Q", "robustness", "quality", "published: faithfulness, R, Q, robustness")


@dataclass
class Study:
    """Scores of every model of the pool, and what the attacks on every unlearned model showed, by the model's name."""

    pool: dict[str, dict[str, Any]] = field(default_factory=dict)
    unlearned: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Study:
        """Numbers of earlier starts."""
        text = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return cls(pool=text.get("pool", {}), unlearned=text.get("unlearned", {}))

    def write(self, path: Path) -> None:
        """Numbers and findings."""
        findings = {name: asdict(row) for name, row in self.findings().items()}
        text = {"findings": findings, "pool": self.pool, "unlearned": self.unlearned}
        path.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")

    def findings(self) -> dict[str, Finding]:
        """What the study says of every score that all models of the pool have, by name."""
        halves = [
            [entry["scores"] for entry in self.pool.values() if entry["knows"] is knows] for knows in (True, False)
        ]
        if not all(halves):
            return {}
        names = set.intersection(*(set(scores) for half in halves for scores in half))
        robust = [entry["scores"] for entry in self.unlearned.values() if entry["keeps"]]
        return {
            name: finding(
                name,
                *([scores[name] for scores in half] for half in halves),
                [_robustness(scores[name]) for scores in robust if name in scores],
            )
            for name in sorted(names)
            if is_reported(name)
        }


def _robustness(values: list[float | None]) -> Robustness:
    known, relearning, quantisation = values
    return Robustness(known=float(known or 0.0), relearning=relearning, quantisation=quantisation)


def estimate_cell(estimate: Estimate | None) -> str:
    """A number with its interval."""
    if estimate is None:
        return "n/a"
    ends = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.3f}{ends}"


def _with_count(estimate: Estimate | None) -> str:
    return "n/a" if estimate is None else f"{estimate_cell(estimate)} n={estimate.n}"


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def markdown_table(findings: Mapping[str, Finding]) -> list[str]:
    """A row a score, those first that best tell both halves of the pool apart."""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- |" + " ---: |" * (len(HEAD) - 1)]
    for name, row in sorted(findings.items(), key=lambda item: -item[1].faithfulness.value):
        published = ", ".join("-" if value is None else f"{value:.3f}" for value in PUBLISHED.get(name, ()))
        cells = [
            f"`{name}`",
            estimate_cell(row.faithfulness),
            *(_with_count(estimate) for estimate in (row.relearning, row.quantisation)),
            *map(_cell, (row.robustness, row.quality)),
            published,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write_page(page: Path, study: Study) -> None:
    """The table between the marks of the page."""
    write_table(page, markdown_table(study.findings()))
