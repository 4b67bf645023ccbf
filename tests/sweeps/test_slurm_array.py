"""Sweeps on a real Slurm: an array of which one task is cancelled and one preempted, and the plain array script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from helpers import warm
from helpers.shared import ROOT
from helpers.slurm import cluster, until_true  # noqa: F401 (a fixture)
from helpers.sweeps import SMALL, summary_counts

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "scripts" / "slurm_array.sbatch"
SEEDS = 4
JOBS = (
    *SMALL,
    "trainer.unlearn.epochs=80",  # 240 steps: long enough to be struck while it trains
    "trainer.checkpoint_every=20",
    "hydra/launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.timeout_min=20",
    "method=npo,ga",
    "model.lora=false,true",
)


def sweep(cluster, output_dir: Path, log: Path) -> warm.Process:  # noqa: F811
    overrides = ("-m", *JOBS, f"output_dir={output_dir}", "hydra.launcher.partition=low")
    env = cluster.warm | {"COLUMNS": "200"}
    with log.open("wb") as file:
        return warm.start(*overrides, module="lume_run.cli", cwd=ROOT, log=file, env=env)


def active(output_dir: Path) -> dict[str, str]:
    """Numbers of the jobs in SLURM by their overrides."""
    path = output_dir / ".submitit" / "active.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {key: entry["number"] for key, entry in entries.items()}


def sighted(output_dir: Path, *, besides: Sequence[Path]) -> Path:
    """The first run folder, besides these, in which unlearning is seen to have a checkpoint: to be struck at once."""
    seen: list[Path] = []

    def look() -> bool:
        checkpoints = output_dir.glob("*/unlearned.partial/checkpoints/checkpoint-*/COMPLETE")
        seen.extend(folder for folder in (path.parents[3] for path in checkpoints) if folder not in besides)
        return bool(seen)

    until_true(look, 300, lambda: active(output_dir))
    return seen[0]


def number_of(output_dir: Path, folder: Path) -> str:
    """The number of the SLURM job that works in a run folder: the one with its method and adapters."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    method, adapters = config["method"]["name"], str(config["model"]["lora"]).lower()
    (number,) = (
        number
        for key, number in active(output_dir).items()
        if f"method={method} " in key + " " and f"model.lora={adapters}" in key.lower()
    )
    return number


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory):  # noqa: F811
    """A sweep of four jobs of which one is preempted and one cancelled, then the same command."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    output_dir, log = tmp_path_factory.mktemp("array"), tmp_path_factory.mktemp("printed") / "log"
    driver = sweep(cluster, output_dir, log)
    try:
        cancelled = sighted(output_dir, besides=())
        cluster.call("scancel", number_of(output_dir, cancelled))
        preempted = sighted(output_dir, besides=(cancelled,))
        cluster.call("scancel", "--signal=USR2", number_of(output_dir, preempted))
        first = driver.wait(400), log.read_text(encoding="utf-8")
    finally:
        driver.kill()
    second = sweep(cluster, output_dir, log).wait(400), log.read_text(encoding="utf-8")
    return output_dir, first, second, (preempted, cancelled)


def test_a_cancelled_task_is_recorded_and_the_others_end(swept):
    _, (code, text), _, _ = swept
    assert code == 1, text
    summary = summary_counts(text)
    assert (summary["jobs"], summary["done"], summary["failed"]) == (SEEDS, SEEDS - 1, 1), text
    assert "CANCELLED" in text


def test_a_preempted_task_goes_on_where_it_was(swept):
    output_dir, _, _, (preempted, _) = swept
    printed = "\n".join(path.read_text(errors="replace") for path in output_dir.glob(".submitit/*/*_0_log.*"))
    assert (preempted / "report.json").exists()
    assert "Requeued job" in printed
    assert "resuming from checkpoint-" in printed


def test_the_same_command_runs_the_cancelled_one_only(swept):
    output_dir, _, (code, text), (_, cancelled) = swept
    assert code == 0, text
    assert "SLURM job" in text and ": 1 jobs;" in text
    assert summary_counts(text)["of them cached"] == SEEDS - 1
    assert (cancelled / "report.json").exists()
    assert not list(output_dir.glob("*/error.json"))
    assert len(list(output_dir.glob("store/target/*/DONE.json"))) == 1


def test_the_plain_array_script(cluster, swept):  # noqa: F811
    """Two runs from the lines of a file, on the target of the sweep."""
    output_dir = swept[0]
    lines = output_dir / "runs.txt"
    lines.write_text("method=gd seed=0\nmethod=npo_gd 'trainer.unlearn.learning_rate=1e-4'\n", encoding="utf-8")
    arguments = [str(lines), *SMALL, f"output_dir={output_dir}"]
    job = cluster.submit(SCRIPT, arguments, "--array=1-2", "--cpus-per-task=1")
    ended = cluster.wait(job)
    printed = "\n".join(path.read_text() for path in cluster.folder.glob("*.out"))
    assert (ended.state, ended.code) == ("COMPLETED", 0), printed
    for method in ("gd", "npo_gd"):
        assert len(list(output_dir.glob(f"bios-tiny-{method}-*/report.json"))) == 1, printed
