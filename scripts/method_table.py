"""Run every method on the embedded biographies and write the table and the plot of docs/results-methods.md.

    python scripts/method_table.py [--seeds 0 1 2] [--tuning-seed 100] [--learning-rates 2e-4 5e-4 1e-3]
                                   [--methods gd npo_gd] [--jobs 2] [--keep-rates] [--out outputs/results-methods.md]
                                   [override ...]

Every loss gets the same tuning: on the tuning seed each learning rate is tried, and the one with the highest harmonic
mean of kept and forgotten is used on the seeds of the table, which are others. Each run is an ordinary `lume-run`
command in a process of its own, so that peak memory is its own; runs of one seed share their target. What is
done is kept, so the script can be stopped and started again; a page keeps what stands around its
table. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lume_run.common.devices import GIB
from lume_run.config.overrides import compose, conf_dir
from lume_run.evaluation.metrics.aggregate import harmonic_mean
from lume_run.pipeline.checks.config import require_settings
from lume_run.sweeps.names import run_folder

SCORES = (
    "forget.regurgitation",
    "forget.knowledge",
    "retain.regurgitation",
    "retain.knowledge",
    "mia.auc",
    "task_aggregate",
)
BASELINES = ("none", "retrain", "task_vector", "whp", "icu", "ties")
LOSSES = (
    *("ga", "gd", "kl", "npo", "npo_gd", "npo_kl", "simnpo"),
    *("me_gd", "idk_gd", "idk_kl", "idk_ap", "idk_ap:method.retain.beta=0.01", "dpo_gd", "dpo_kl", "llmu"),
    *("rmu", "adaptive_rmu", "undial", "wga", "satimp", "ceu", "pdu", "jensun", "altpo"),
)
EXTRA = {"ties": ["model.lora=true"]}
RATES = ("2e-4", "5e-4", "1e-3", "2e-3", "5e-3")
CORNER = (0.8, 0.85)  # kept and forgotten from which on points are shown again, larger
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
COMPOSING = threading.Lock()  # Hydra composes one config at a time
LORA_RATES = ("2e-3", "5e-3", "1e-2")


def run(method: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """The report of one run, made unless it is there; a method may bring overrides: `idk_ap:method.retain.beta=1`."""
    name, _, extra = method.partition(":")
    chosen = [f"method={name}", f"seed={seed}", *EXTRA.get(name, []), *(extra.split(",") if extra else []), *overrides]
    with COMPOSING:
        _, data = require_settings(compose(chosen, [conf_dir()]))
    path = run_folder(data) / "report.json"
    if not path.exists():
        subprocess.run([sys.executable, "-m", "lume_run.cli", *chosen], check=True, capture_output=True)
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def summary(report: dict[str, Any]) -> dict[str, float | None]:
    """The numbers of one row: scores, utility, efficacy, seconds a step, peak memory."""
    scores = {name: report["scores"].get(f"unlearned.{name}") for name in SCORES}
    kept = [scores["retain.regurgitation"], scores["retain.knowledge"]]
    known = [scores["forget.regurgitation"], scores["forget.knowledge"]]
    training = report["training"].items()
    outcomes = [outcome for name, outcome in training if name == "unlearned" or name.startswith("adapter")]
    return {
        **scores,
        "utility": harmonic_mean([value or 0.0 for value in kept]),
        "forgotten": 1 - statistics.mean(value or 0.0 for value in known),
        "s/step": max((outcome["seconds_per_step"] or 0.0 for outcome in outcomes), default=None),
        "peak GiB": max(((outcome["peak_memory_bytes"] or 0) / GIB for outcome in outcomes), default=None),
    }


def cell(values: Sequence[float | None]) -> str:
    """Mean over seeds, with the spread where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ±{(max(known) - min(known)) / 2:.2f}" if len(known) > 1 and max(known) - min(known) >= 0.01 else ""
    return f"{statistics.mean(known):.3f}{spread}"


def markdown_table(
    rows: dict[str, list[dict[str, float | None]]], rates: dict[str, str | None], ended: dict[str, list[str]]
) -> list[str]:
    """Markdown lines."""
    columns = list(next(iter(rows.values()))[0])
    lines = ["| method | rate | " + " | ".join(columns) + " | ended |"]
    lines.append("| --- | ---: |" + " ---: |" * len(columns) + " --- |")
    for method, seeds in rows.items():
        cells = [rates[method] or "", *(cell([row[name] for row in seeds]) for name in columns)]
        lines.append(f"| `{method}` | {' | '.join(cells)} | {'; '.join(sorted(set(ended[method])))} |")
    return lines


def write_table(page: Path, lines: list[str]) -> None:
    """Replace the table of a page (between its two marks), or write a page of the table alone."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def plot(rows: dict[str, list[dict[str, float | None]]], path: Path) -> None:
    """Kept against forgotten, all of it and the good corner; the retrained model is the target point."""
    from matplotlib.figure import Figure

    places = {
        method: tuple(statistics.mean(row[name] or 0.0 for row in seeds) for name in ("utility", "forgotten"))
        for method, seeds in rows.items()
    }
    figure = Figure(figsize=(12, 5.5))
    whole, corner = figure.subplots(1, 2)
    for axes in (whole, corner):
        for method, (x, y) in places.items():
            color = "tab:green" if method == "retrain" else "tab:gray" if method in BASELINES else "tab:blue"
            goal = method == "retrain"
            axes.scatter(x, y, marker="*" if goal else "o", s=220 if goal else 36, color=color, zorder=3 if goal else 2)
        axes.set_xlabel("kept: harmonic mean of retain regurgitation and knowledge")
        axes.grid(alpha=0.3)
    whole.set_ylabel("forgotten: 1 - mean of forget regurgitation and knowledge")
    whole.set_title("embedded biographies, tiny model; star: retrained")
    corner.set_title("the upper right corner")
    corner.set_xlim(CORNER[0], 1.01)
    corner.set_ylim(CORNER[1], 1.01)
    inside = {method: place for method, place in places.items() if all(map(float.__ge__, place, CORNER))}
    outside = [method for method in places if method not in inside]
    for number, method in enumerate(outside):
        near = sum(abs(places[method][1] - places[other][1]) < 0.02 for other in outside[:number])
        whole.annotate(method, places[method], xytext=(6, 4 - 9 * near), textcoords="offset points", fontsize=8)
    for number, (method, place) in enumerate(sorted(inside.items(), key=lambda item: (-item[1][1], item[0]))):
        corner.annotate(
            method,
            place,
            xytext=(1.05, 0.99 - number / max(1, len(inside) - 1)),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "lightgray", "linewidth": 0.7, "relpos": (0, 0.5)},
        )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def best_rate(method: str, rates: Sequence[str], rows: Sequence[dict[str, float | None]]) -> str:
    """The learning rate with the highest harmonic mean of kept and forgotten; the lower one of equals."""
    balances = [harmonic_mean([row["utility"] or 0.0, row["forgotten"] or 0.0]) for row in rows]
    print(method, " ".join(f"{rate}:{value:.3f}" for rate, value in zip(rates, balances, strict=True)), flush=True)
    return rates[balances.index(max(balances))]


def rates_of(method: str, given: Sequence[str] | None) -> Sequence[str]:
    """The learning rates to try; none for what has no unlearning steps."""
    if method in ("none", "retrain", "icu"):
        return ()
    return given or (LORA_RATES if method in EXTRA else RATES)


def rates_in(page: Path) -> dict[str, str | None]:
    """The rates of a page's table by method, None where there is none."""
    cells = [line.split("|")[1:3] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {method.strip(" `"): rate.strip() or None for method, rate in cells}


def main() -> None:
    """Tune, run all methods, and write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--tuning-seed", type=int, default=100)
    parser.add_argument("--learning-rates", nargs="*", help=f"default: {' '.join(RATES)}")
    parser.add_argument("--methods", nargs="*", default=[*BASELINES, *LOSSES])
    parser.add_argument("--keep-rates", action="store_true", help="take the rates of the page's table, tune nothing")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; give each a core and OMP_NUM_THREADS=1")
    parser.add_argument("--out", type=Path, default=Path("outputs/results-methods.md"))
    known, overrides = parser.parse_known_args()
    known.out.parent.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(known.jobs)

    def start(method: str, seed: int, rate: str | None) -> Future[dict[str, Any]]:
        rates = [] if rate is None else [f"trainer.unlearn.learning_rate={rate}"]
        return pool.submit(run, method, seed, [*overrides, *rates])

    kept = rates_in(known.out) if known.keep_rates else {}
    tuning = {method: rates_of(method, known.learning_rates) for method in known.methods if method not in kept}
    trials = {method: [start(method, known.tuning_seed, rate) for rate in rates] for method, rates in tuning.items()}
    chosen = kept | {
        method: best_rate(method, rates, [summary(trial.result()) for trial in trials[method]]) if rates else None
        for method, rates in tuning.items()
    }
    started = {method: [start(method, seed, chosen[method]) for seed in known.seeds] for method in known.methods}
    rows: dict[str, list[dict[str, float | None]]] = {}
    ended: dict[str, list[str]] = {}
    for method, runs in started.items():
        reports = [future.result() for future in runs]
        rows[method] = [summary(report) for report in reports]
        outcomes = [outcome for report in reports for outcome in report["training"].values()]
        ended[method] = [word for outcome in outcomes for word in ("diverged", "stopped") if outcome[word]]
        write_table(known.out, markdown_table(rows, chosen, ended))
    plot(rows, known.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
