"""Sweeps: failures are recorded and the rest runs, the same command runs only what is missing, jobs share."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from helpers import warm
from helpers.shared import ROOT
from helpers.sweeps import SMALL, config, scores, summary_counts, write_run
from hydra.core.utils import JobReturn, JobStatus

from lume_run.common.errors import ConfigError, RunError
from lume_run.config.overrides import compose, conf_dir
from lume_run.launch.preemption import REQUEUE
from lume_run.pipeline.checks.config import require_settings
from lume_run.report.comparison.run_folders import collect_runs
from lume_run.sweeps.job import begin_run_folder, objective_value, write_error
from lume_run.sweeps.names import hydra_folder
from lume_run.sweeps.runner import Job, JobRunner

pytestmark = pytest.mark.slow

# Four combinations: the last is refused only as a whole, and one names weights that the model lacks.
JOBS = ("model.trainable=null,['*.layers.9.*']", "model.lora=false,true")


def overrides_of(output_dir: Path, *arguments: str) -> list[str]:
    return ["-m", *SMALL, f"output_dir={output_dir}", *arguments]


@dataclass(frozen=True)
class Ended:
    """A command's end: exit code, what it printed, processor time [s]."""

    code: int
    text: str
    seconds: float


def with_warm_workers() -> dict[str, str]:
    """The environment of a sweep whose joblib workers are warm."""
    return os.environ | warm.rank_variables_of_runs("loky")


def lume_run(output_dir: Path, *arguments: str) -> Ended:
    env = with_warm_workers() | {"COLUMNS": "200"}
    done = warm.run(*overrides_of(output_dir, *arguments), cwd=ROOT, env=env)
    return Ended(done.returncode, done.stdout + done.stderr, done.seconds)


def finished(output_dir: Path, kind: str) -> list[Path]:
    return list((output_dir / "store" / kind).glob("*/DONE.json"))


# ---------------------------------------------------------------------------------------- failures, the same again


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Ended, Ended]:
    """A sweep in which two of four jobs fail, and the same command once more."""
    output_dir = tmp_path_factory.mktemp("swept")
    return output_dir, lume_run(output_dir, *JOBS), lume_run(output_dir, *JOBS)


def test_jobs_that_fail_are_recorded_and_the_others_run(swept):
    output_dir, first, _ = swept
    assert first.code == 1, first.text
    assert summary_counts(first.text) == {
        "jobs": 4,
        "done": 2,
        "of them cached": 0,
        "diverged": 0,
        "failed": 2,
        "unfinished": 0,
    }
    assert "Traceback" not in first.text
    errors = [json.loads(path.read_text(encoding="utf-8")) for path in output_dir.glob("*/error.json")]
    assert len(errors) == 2
    text = "\n".join(error["error"] for error in errors)
    assert "model.trainable: with adapters only adapters are trained" in text  # as it was composed
    assert "*.layers.9.*" in text  # as it ran
    assert all(error["command"][0].endswith(("lume-run", "cli.py")) and error["when"] for error in errors)


def test_the_report_lists_them_as_failed(swept):
    states = sorted(run.state for run in collect_runs([swept[0]]).runs)
    assert states == ["done", "done", "failed", "failed"]


def test_the_same_command_runs_only_what_failed(swept):
    output_dir, first, again = swept
    assert again.code == 1
    assert summary_counts(again.text)["of them cached"] == 2
    assert again.text.count("#") == 1  # jobs that were launched: the one whose config is good in itself
    assert "unlearn unlearned" not in again.text
    assert again.seconds < first.seconds
    assert len(finished(output_dir, "target")) == 1


def test_a_diverging_job_is_listed_and_not_started_again(swept):
    """On the target of the sweep above; the second job leaves the range of floats at once."""
    output_dir, _, _ = swept
    jobs = ("method.retain_weight=2", "trainer.unlearn.sharpness=null,1e9")
    for cached in (0, 2):
        ended = lume_run(output_dir, *jobs)
        summary = summary_counts(ended.text)
        assert ended.code == 0, ended.text
        assert (summary["done"], summary["diverged"], summary["of them cached"]) == (1, 1, cached)
        assert "unlearned diverged: the loss is nan at step 1" in ended.text


def test_a_sweep_of_what_is_not_there_starts_no_job(tmp_path):
    ended = lume_run(tmp_path / "runs", "stages=[evaluate]", "model=hf", f"model.path={tmp_path}/model", "seed=0,1")
    assert ended.code == 2, ended.text
    assert not (tmp_path / "runs").exists()


def test_an_error_is_of_the_last_attempt(tmp_path):
    write_error(tmp_path, ValueError("no such luck"), ["lume-run", "seed=1"])
    error = json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))
    assert (error["error"], error["command"]) == ("ValueError: no such luck", ["lume-run", "seed=1"])
    begin_run_folder(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


# ------------------------------------------------------------------------------------------------ several at once


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, Ended]:
    """Two jobs at once that share everything but unlearning."""
    output_dir = tmp_path_factory.mktemp("together")
    pytest.importorskip("joblib")
    overrides = ("hydra/launcher=joblib", "method=npo_gd,npo", "objective=forget.probability", in_folder(output_dir))
    return output_dir, lume_run(output_dir, *overrides)


def in_folder(output_dir: Path) -> str:
    return f"hydra.sweep.dir={output_dir}/mine"


def test_jobs_at_once_make_what_they_share_once(together):
    output_dir, ended = together
    assert ended.code == 0, ended.text
    assert summary_counts(ended.text)["done"] == 2
    kinds = {kind: len(finished(output_dir, kind)) for kind in ("base", "target", "reference", "responses")}
    assert kinds == {"base": 1, "target": 1, "reference": 1, "responses": 3}
    assert "Warning" not in ended.text
    config = next((output_dir / "mine").glob("bios-*-npo-*/config.yaml")).read_text(encoding="utf-8")
    assert "lume_run_name" not in config


def test_the_plan_of_a_sweep_says_what_is_shared(together):
    output_dir, _ = together
    before = sorted(path for path in output_dir.rglob("*"))
    done = lume_run(output_dir, "method=npo_gd,npo,ga", "--dry-run", in_folder(output_dir))
    assert done.code == 0, done.text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.text.split("\n") if line.startswith("│")]
    shared = {row[0]: row[1:] for row in rows if row[1].endswith(" jobs")}
    assert shared["target"][:4] == ["3 jobs", "1", "1", "0"]
    assert shared["unlearned"][:4] == ["3 jobs", "3", "2", "1"]
    assert shared["unlearned"][4].startswith("1 x ")
    assert "3 jobs, 2 finished; the rest: " in done.text
    assert sum(row[3] == "all of it" for row in rows if len(row) == 4) == 2
    assert sorted(path for path in output_dir.rglob("*")) == before


# --------------------------------------------------------------------------------------------------- killed, stopped


class Dies:
    """A launcher whose process is killed after its first job had ended, and again before the next one had begun."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs, self.launched = jobs, []

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append(len(job_overrides))
        due = [job for job in self.jobs if list(job.overrides) in job_overrides]
        for job in due[:1] if len(self.launched) == 1 else due:
            if len(self.launched) != 2:
                write_run(job.run_folder.parent, config("npo"), scores(0.1, 0.9), name=job.run_folder.name)
        if len(self.launched) < 3:
            raise RuntimeError("terminated")
        return [JobReturn(status=JobStatus.COMPLETED) for _ in due]


def runner_of(launcher) -> JobRunner:
    runner = JobRunner.__new__(JobRunner)
    runner.launcher, runner.started, runner.stopped = launcher, 0, False
    return runner


def jobs_in(folder: Path) -> list[Job]:
    settings, _ = require_settings(compose([], [conf_dir()]))
    return [Job(overrides=(f"seed={n}",), folder=folder / f"run{n}", settings=settings) for n in range(3)]


def test_a_process_killed_between_two_jobs_does_not_end_a_sweep(tmp_path):
    jobs = jobs_in(tmp_path)
    launcher = Dies(jobs)
    runner_of(launcher).run(jobs)
    assert launcher.launched == [3, 2, 2]
    assert [job.state for job in jobs] == ["done", "done", "done"]


@pytest.mark.parametrize(("error", "times"), [(RuntimeError("no workers"), 2), (RunError("sbatch refused"), 1)])
def test_a_launcher_that_does_not_work_is_not_asked_for_ever(tmp_path, capsys, error, times):
    class Broken:
        launched = 0

        def launch(self, *_: object, **__: object) -> None:
            self.launched += 1
            raise error

    launcher = Broken()
    runner_of(launcher).run(jobs_in(tmp_path))
    assert launcher.launched == times
    assert str(error) in capsys.readouterr().err


LONG = ("trainer.train.epochs=60", "trainer.checkpoint_every=5")


def begun(output_dir: Path) -> set[Path]:
    """Targets that have a checkpoint, or are done."""
    under_way = {path.parents[2] for path in output_dir.glob("store/target/*/checkpoints/checkpoint-*/COMPLETE")}
    return {path.with_suffix("") for path in under_way} | {path.parent for path in finished(output_dir, "target")}


@pytest.fixture
def printed(tmp_path) -> Path:
    return tmp_path / "printed.txt"


@pytest.fixture
def started(tmp_path, printed) -> Iterator[warm.Process]:
    """Two long jobs at once, both under way: each trains a target of its own."""
    overrides = overrides_of(tmp_path, "hydra/launcher=joblib", "seed=0,1", *LONG)
    with printed.open("wb") as log:
        process = warm.start(*overrides, module="lume_run.cli", cwd=ROOT, log=log, env=with_warm_workers())
    deadline = time.monotonic() + 240
    while len(begun(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    yield process
    running = [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []
    for left in running:
        left.kill()


def test_jobs_at_once_that_are_asked_to_stop_all_leave_a_checkpoint(started, printed, tmp_path):
    started.send_signal(signal.SIGTERM)
    code, text = started.wait(120), printed.read_text(encoding="utf-8")
    assert code == REQUEUE, text
    assert summary_counts(text)["preempted"] == 2
    assert text.count("Stopped ") == 2
    assert not list(tmp_path.glob("*/error.json"))


def test_a_job_whose_process_is_killed_runs_again(started, printed, tmp_path):
    workers = [child for child in psutil.Process(started.pid).children() if warm.behind([child.pid])]
    assert len(workers) == 2
    workers[0].kill()
    time.sleep(1.0)  # joblib ends the other worker
    targets = len(finished(tmp_path, "target"))  # by a job that began much earlier than the other
    code, text = started.wait(280), printed.read_text(encoding="utf-8")
    assert code == 0, text
    assert "TerminatedWorkerError" in text
    assert summary_counts(text)["done"] == 2
    assert text.count("resuming from checkpoint-") >= 2 - targets >= 1, text  # the one beside it was taken along


# --------------------------------------------------------------------------------------------- folders, objectives


def test_hydra_says_where_runs_go():
    def folder(*overrides: str, sweeping: bool) -> str:
        path = hydra_folder(compose([*overrides, "seed=1"], [conf_dir()], whole=True), sweeping=sweeping)
        return str(path.relative_to(Path.cwd()))

    name = folder(sweeping=False).removeprefix("outputs/")
    assert name.startswith("bios-tiny-npo_gd-")
    assert folder(sweeping=True) == f"outputs/{name}"
    assert folder("hydra.run.dir=here", sweeping=False) == "here"
    assert folder("hydra.sweep.dir=there", sweeping=True) == f"there/{name}"
    assert folder("hydra.sweep.subdir=${hydra.job.override_dirname}", sweeping=True) == "outputs/seed=1"
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.subdir.*hydra\.job\.num"):
        folder("hydra.sweep.subdir=${hydra.job.num}", sweeping=True)


def test_objectives_are_one_score_or_several():
    score = {"a": 0.5, "b": 1.0}.get
    assert objective_value("a", score) == 0.5
    assert objective_value(["a", "b"], score) == (0.5, 1.0)
    assert objective_value(["a", "c"], score) is None
