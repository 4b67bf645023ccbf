"""Attack every method on the embedded biographies and write the tables and the plot of docs/results-robustness.md.

    python scripts/robustness_table.py [--seeds 0 1 2] [--methods gd npo_gd] [--jobs 2] [--rates PAGE]
                                       [--out outputs/results-robustness.md] [override ...]

Each run is `lume-run attack=full method=... seed=...` at the learning rate that the table of PAGE
(docs/results-methods.md) tuned for the method. Runs of one seed share the target, and the retrained control with its
attacks. What is done is kept, and so are the numbers of earlier starts, in a file beside the page
(`.json`): seeds can be added later, in other folders.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from method_table import BASELINES, LOSSES, rates_in, run, write_table

KNOWLEDGE = "forget.knowledge"
METHODS = tuple(name for name in (*BASELINES, *LOSSES) if name != "whp")  # which has no unlearned weights to attack
KEPT = ("retain.regurgitation", "retain.knowledge")
RELEARNING = {  # attacks that train on forget documents, and on which
    "relearn": "all forget documents",
    "relearn_half": "the other half of the forget documents",
}
HELD = "relearn_half"  # the attack whose documents that are scored were not shown
KINDS = ("recovered", "excess")
COLUMNS = ("relearn", HELD, "benign", "quantise", "prune", "any_prompt")


@dataclass(frozen=True)
class Outcome:
    """What the attacks of one run brought back of `forget.knowledge`.

    `known` is the unlearned model's score, `kept` the mean of the retain scores. By attack, over its strengths,
    `recovered` is the largest recovered share, `excess` the largest excess over the control's, `ends` those of their
    95 % intervals over documents. `curves` has, by attack that relearns and by its step, the largest share over the
    learning rates: the model's, and the control's.
    """

    method: str
    seed: int
    known: float
    kept: float
    recovered: dict[str, float | None]
    excess: dict[str, float | None]
    ends: dict[str, tuple[float, float]]
    curves: dict[str, dict[str, tuple[float | None, float | None]]]


def outcome_of(method: str, seed: int, report: Mapping[str, Any]) -> Outcome:
    """The numbers of a run's report.json."""
    scores = report["scores"]

    def worst(measure: str) -> dict[str, float | None]:
        return {attack: scores.get(f"unlearned.attack.{attack}.{KNOWLEDGE}.{measure}") for attack in COLUMNS}

    names = {
        f"{attack}.{kind}": f"unlearned.attack.{attack}.{KNOWLEDGE}.{kind}" for attack in COLUMNS for kind in KINDS
    }
    return Outcome(
        method=method,
        seed=seed,
        known=scores[f"unlearned.{KNOWLEDGE}"],
        kept=statistics.mean(scores[f"unlearned.{name}"] for name in KEPT),
        recovered=worst("recovered"),
        excess=worst("excess"),
        ends={short: report["intervals"][name] for short, name in names.items() if name in report["intervals"]},
        curves={attack: _curve(report["attacks"]["rows"], attack) for attack in RELEARNING},
    )


def _curve(rows: Sequence[Mapping[str, Any]], attack: str) -> dict[str, tuple[float | None, float | None]]:
    of_attack = [row for row in rows if (row["attack"], row["score"]) == (attack, KNOWLEDGE)]
    steps = sorted({row["strength"]["amount"] for row in of_attack})
    return {
        f"{step:g}": (_largest(of_attack, step, "recovered"), _largest(of_attack, step, "taught")) for step in steps
    }


def _largest(rows: Sequence[Mapping[str, Any]], step: float, name: str) -> float | None:
    values = [row[name] for row in rows if row["strength"]["amount"] == step and row.get(name) is not None]
    return max(values, default=None)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what there is; None of nothing."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def share_cell(rows: Sequence[Outcome], attack: str, kind: str) -> str:
    """Mean over seeds with its 95 % interval (Student's t); of two the lower and the higher, of one over documents."""
    known = [value for row in rows if (value := getattr(row, kind)[attack]) is not None]
    if not known:
        return "n/a"
    if len(known) == 1:
        ends = next((row.ends[f"{attack}.{kind}"] for row in rows if f"{attack}.{kind}" in row.ends), None)
        return f"{known[0]:.3f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")
    if len(known) == 2:
        return f"{statistics.mean(known):.3f} ({min(known):.2f}, {max(known):.2f})"
    from scipy.stats import t

    reach = t.ppf(0.975, len(known) - 1) * statistics.stdev(known) / len(known) ** 0.5
    return f"{statistics.mean(known):.3f} ±{reach:.3f}"


def markdown_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Markdown lines: what each attack brought back at worst, by method; methods that forgot nothing stand apart."""
    head = ["method", "seeds", "known", "kept", *(f"`{name}`" for name in COLUMNS)]
    head += [f"excess, `{name}`" for name in RELEARNING]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for method in dict.fromkeys(outcome.method for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.method == method]
        cells = [f"`{method}`", str(len(rows)), *(f"{mean(values):.3f}" for values in _state(rows))]
        cells += [share_cell(rows, attack, "recovered") for attack in COLUMNS]
        cells += [share_cell(rows, attack, "excess") for attack in RELEARNING]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _state(rows: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    return [row.known for row in rows], [row.kept for row in rows]


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Share of the knowledge that came back against steps of relearning, a line a method; the control's a band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5))  # of no window, so that none is kept open from row to row
    panels = figure.subplots(1, len(RELEARNING), sharey=True)
    for axes, (attack, trained_on) in zip(panels, RELEARNING.items(), strict=True):
        steps = list(outcomes[0].curves[attack])
        _draw_control(axes, [row.curves[attack] for row in outcomes], steps)
        _draw_methods(axes, outcomes, attack, steps)
        axes.set_xticks(range(len(steps)), steps)
        axes.set_xlabel(f"steps of training on {trained_on}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of forget.knowledge recovered")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _draw_control(axes: Any, curves: Sequence[Mapping[str, Any]], steps: Sequence[str]) -> None:
    taught = [[curve[step][1] for curve in curves if curve[step][1] is not None] for step in steps]
    lows, highs = ([end(values, default=0.0) for values in taught] for end in (min, max))
    places = range(len(steps))
    axes.fill_between(places, lows, highs, color="tab:green", alpha=0.25, linewidth=3, label="retrained (control)")


def _draw_methods(axes: Any, outcomes: Sequence[Outcome], attack: str, steps: Sequence[str]) -> None:
    from matplotlib import colormaps

    colors = colormaps["tab20"]
    methods = [name for name in dict.fromkeys(row.method for row in outcomes) if name not in ("none", "retrain")]
    for number, method in enumerate(methods):
        curves = [row.curves[attack] for row in outcomes if row.method == method]
        shares = [mean(curve[step][0] for curve in curves) for step in steps]
        if None not in shares:
            style = "-" if number < colors.N else "--"
            axes.plot(range(len(steps)), shares, style, marker="o", color=colors(number % colors.N), label=method)


def read(path: Path) -> dict[tuple[str, int], Outcome]:
    """Outcomes of earlier starts by method and seed."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {(row["method"], row["seed"]): Outcome(**row) for row in rows}


def main() -> None:
    """Run what is missing, and write page, plot and numbers after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--rates", type=Path, default=Path("docs/results-methods.md"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; give each a core and OMP_NUM_THREADS=1")
    parser.add_argument("--out", type=Path, default=Path("outputs/results-robustness.md"))
    given, overrides = parser.parse_known_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    numbers = given.out.with_suffix(".json")
    rates = rates_in(given.rates)
    outcomes = read(numbers)

    def attack(case: tuple[str, int]) -> Outcome:
        method, seed = case
        rate = rates.get(method)
        words = [f"trainer.unlearn.learning_rate={rate}"] if rate else []
        return outcome_of(method, seed, run(method, seed, ["attack=full", *words, *overrides]))

    cases = [(method, seed) for seed in given.seeds for method in given.methods]
    with ThreadPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(attack, [case for case in cases if case not in outcomes]):
            outcomes[outcome.method, outcome.seed] = outcome
            print(outcome.method, outcome.seed, flush=True)
            order = sorted(outcomes.values(), key=lambda row: (METHODS.index(row.method), row.seed))
            numbers.write_text(json.dumps([asdict(row) for row in order], indent=1) + "\n", encoding="utf-8")
            write_table(given.out, markdown_table(order))
            plot(order, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
