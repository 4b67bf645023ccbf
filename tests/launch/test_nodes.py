"""Several nodes: a Slurm of two nodes on this machine, stopped, preempted, asked for what it has not."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import warm
from helpers.shared import ROOT, shape
from helpers.slurm import cluster, until_true  # noqa: F401 (a fixture)
from safetensors.numpy import load_file

from lume_run.common.errors import DataError, InputError, Problem, RunError
from lume_run.common.store import Artifact
from lume_run.config.overrides import compose, conf_dir
from lume_run.launch import preemption, slurm
from lume_run.launch.agent import ERRORS
from lume_run.launch.spawn import free_port, rank_environment, rank_failure
from lume_run.launch.world import World
from lume_run.pipeline.checks.config import check_config, combination_problems
from lume_run.pipeline.rank import write_failure

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "scripts" / "slurm_requeue.sbatch"
SMALL = (
    "task.num_documents=2",
    *shape(64, 2, 128),
    "trainer.train.epochs=40",
    "trainer.unlearn.epochs=12",
    "trainer.unlearn.batch_size=4",
    "trainer.unlearn.micro_batch_size=4",
    "trainer.checkpoint_every=3",
    "evaluator=memorisation",
    "evaluator.membership=false",
    "evaluator.resamples=0",
    "launch.device=cpu",
)
ZERO3 = ("launch=zero3", "stages=[train,unlearn,evaluate]")
NO_COMPILER = {"CXX": "/no/compiler", "CC": "/no/compiler"}


def lume_run(*overrides: str, **environment: str) -> warm.Ended:
    done = warm.run(*SMALL, *overrides, cwd=ROOT, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def run_folder(output_dir: Path) -> Path:
    (report,) = output_dir.glob("bios-*/report.json")
    return report.parent


def history(output_dir: Path) -> list[dict[str, float]]:
    return json.loads((run_folder(output_dir) / "unlearned" / "history.json").read_text(encoding="utf-8"))


def scores(output_dir: Path) -> dict[str, float]:
    report = json.loads((run_folder(output_dir) / "report.json").read_text(encoding="utf-8"))
    return {name: value for name, value in report["scores"].items() if value is not None}


def with_target(alone: Path, output_dir: Path) -> Path:
    """A folder of runs whose store has all that comes before unlearning: the rest takes two starts instead of five."""
    artifacts = json.loads((run_folder(alone) / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    shutil.copytree(alone / "store", output_dir / "store")
    shutil.rmtree(output_dir / "store" / Path(artifacts["unlearned responses"]).relative_to(alone / "store"))
    return output_dir


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The runs of one process."""
    output_dir = tmp_path_factory.mktemp("alone")
    lume_run(f"output_dir={output_dir}", "launch=single")
    return output_dir


@pytest.fixture(scope="module")
def one_node(alone, tmp_path_factory) -> tuple[Path, str]:
    """The runs of two ranks on one node, on a machine without a compiler, and what they printed."""
    output_dir = with_target(alone, tmp_path_factory.mktemp("node"))
    extensions = tmp_path_factory.mktemp("extensions")
    environment = {**NO_COMPILER, "TORCH_EXTENSIONS_DIR": str(extensions)}
    done = lume_run(f"output_dir={output_dir}", *ZERO3, "launch.processes=2", **environment)
    assert list(extensions.iterdir()) == []
    return output_dir, done.stdout + done.stderr


def assert_same(output_dir: Path, other: Path, *, loss: float) -> None:
    """The same steps, their losses within `loss` nats, and the same scores."""
    steps, others = history(output_dir), history(other)
    assert [entry["step"] for entry in steps] == [entry["step"] for entry in others]
    assert [entry["loss"] for entry in steps] == pytest.approx([entry["loss"] for entry in others], abs=loss)
    assert scores(output_dir) == pytest.approx(scores(other), abs=1e-5)
    values = scores(output_dir)
    assert values["unlearned.forget.probability"] < 0.1 < values["unlearned.retain.probability"]


def test_two_ranks_on_one_node_equal_one_process_and_say_nothing_superfluous(alone, one_node):
    output_dir, printed = one_node
    assert "launch zero3, 2 processes (as configured)" in printed
    assert not [word for word in ("WARNING", "Warning", "built successfully", "accelerator") if word in printed]
    assert_same(output_dir, alone, loss=1e-5)


def test_two_nodes_asked_to_stop_are_queued_again_and_equal_one_node(cluster, alone, one_node, tmp_path):  # noqa: F811
    """SIGUSR2 as `--signal` sends it before the time limit; the script has the job queued again."""
    output_dir = with_target(alone, tmp_path / "nodes")
    arguments = [*SMALL, *ZERO3, "launch.processes=1", f"output_dir={output_dir}"]
    job = cluster.submit(SCRIPT, arguments, "--nodes=2", environment=cluster.warm)
    until_true(lambda: saved(output_dir) >= 3, 300, lambda: cluster.summary(job))
    cluster.call("scancel", "--signal=USR2", str(job))
    ended = cluster.wait(job)
    printed = cluster.printed(job)
    assert (ended.state, ended.code, ended.restarts) == ("COMPLETED", 0, 1), printed
    assert "launch zero3, 1 process on each of 2 nodes (as configured)" in printed
    assert "resuming from checkpoint-" in printed
    assert_same(output_dir, one_node[0], loss=1e-6)
    assert largest_difference(output_dir, one_node[0], "bios-*/unlearned/model") < 1e-6


def test_a_preempted_job_ends_with_the_weights_of_an_undisturbed_one(cluster, alone, tmp_path):  # noqa: F811
    slowly = "trainer.checkpoint_every=1"  # so that training is under way until the other job comes
    arguments = [*SMALL, slowly, "stages=[train]", "launch=single", f"output_dir={tmp_path}"]
    job = cluster.submit(SCRIPT, arguments, "--nodes=1", "--partition=low", environment=cluster.warm)
    until_true(lambda: saved(tmp_path) >= 3, 300, lambda: cluster.summary(job))
    other = cluster.sbatch("sleep 1", "--nodes=2", "--exclusive", "--partition=high")
    assert cluster.wait(other).state == "COMPLETED"
    ended = cluster.wait(job)
    printed = cluster.printed(job)
    assert (ended.state, ended.code, ended.restarts) == ("COMPLETED", 0, 1), printed
    assert "Stopped after step" in printed
    assert "resuming from checkpoint-" in printed
    assert largest_difference(tmp_path, alone, "store/target/*") == 0


def test_commands_of_an_allocation_take_its_nodes_once_or_say_why_not(cluster, tmp_path):  # noqa: F811
    """In the script of sbatch all nodes; in a step of srun one; not two drivers; not more nodes than there are."""
    command = shlex.join(["lume-run", *SMALL, f"output_dir={tmp_path}", "dry_run=true", "launch=ddp"])
    wrong = command.replace("dry_run=true", "dry_run=false")
    script = f"{command}\nsrun --ntasks=1 --nodes=1 {command}\n{wrong} launch.nodes=3\nsrun {wrong}\n"
    job = cluster.sbatch(script, "--nodes=2", "--ntasks-per-node=1")
    cluster.wait(job)
    printed = cluster.printed(job)
    assert printed.count("launch: ddp, 1 process on each of 2 nodes (as configured)") == 1, printed
    assert printed.count("launch: ddp, 1 process (as configured; one process shares nothing)") == 1
    assert printed.count("launch.nodes: 3 nodes are wanted, and this SLURM allocation has 2") == 1
    assert printed.count("launch: srun started this command 2 times") == 2
    assert not list(tmp_path.iterdir())


def test_nodes_that_cannot_meet_say_so(tmp_path):
    """The second of two nodes, where nobody answers at the first one's address."""
    missing = [f"--master-port={free_port()}", "--master-addr=127.0.0.1", "--rdzv-conf=timeout=1"]
    command = [sys.executable, "-m", "lume_run.launch.agent", "--nnodes=2", "--node-rank=1", *missing, "no.py"]
    with subprocess.Popen(
        command,
        env={**os.environ, preemption.STOP_FILE_VARIABLE: str(tmp_path / "STOP"), "SLURMD_NODENAME": "n2"},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as agent:
        assert agent.wait(60) == 1
    artifact = Artifact(stage="train", name="target", path=tmp_path, inputs={}, build=lambda _: None)
    message = str(rank_failure(tmp_path / ERRORS, artifact, 1))
    assert message.startswith("n2 cannot meet the other nodes: ")
    assert "launch.port=" in message


@pytest.mark.parametrize("error", [RunError("a"), InputError("a"), DataError([Problem(where="a", what="b")])])
def test_what_a_rank_failed_with_keeps_its_exit_code(error, tmp_path):
    write_failure(error, tmp_path, tmp_path)
    artifact = Artifact(stage="train", name="target", path=tmp_path, inputs={}, build=lambda _: None)
    failure = rank_failure(tmp_path / ERRORS, artifact, 1)
    assert (str(failure), failure.exit_code) == (str(error), error.exit_code)


def test_ranks_on_cpus_see_no_gpu(tmp_path):
    ours = rank_environment(World(mode="zero2", processes=2), tmp_path / "STOP")
    assert (ours["DS_ACCELERATOR"], ours["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    theirs = rank_environment(World(mode="zero2", processes=2, device="cuda"), tmp_path / "STOP")
    assert theirs.get("DS_ACCELERATOR") == os.environ.get("DS_ACCELERATOR")
    assert theirs.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


def saved(output_dir: Path) -> int:
    """The step of the newest whole checkpoint."""
    steps = [int(path.parent.name.split("-")[1]) for path in output_dir.glob("**/checkpoint-*/COMPLETE")]
    return max(steps, default=0)


def largest_difference(output_dir: Path, other: Path, where: str) -> float:
    """Between the weights of two models."""
    (first,), (second,) = (list(folder.glob(f"{where}/model.safetensors")) for folder in (output_dir, other))
    weights, others = load_file(first), load_file(second)
    assert weights.keys() == others.keys()
    return max(float(abs(value - others[name]).max()) for name, value in weights.items())


# ------------------------------------------------------------------------------------------- refused before anything


def launch_problems(**launch: object) -> list[str]:
    """What is wrong with launch settings."""
    settings = {"name": "ddp", "processes": None, "nodes": None, "port": None, "device": "cpu"} | launch
    data = {"stages": ["train"], "model": {"shape": {}}, "launch": settings}
    return [f"{problem.where}: {problem.what}" for problem in combination_problems(data)]


@pytest.fixture
def outside(monkeypatch):
    """No SLURM, not a rank."""
    for name in list(os.environ):
        if name.startswith("SLURM") or name in (preemption.STOP_FILE_VARIABLE, "WORLD_SIZE"):
            monkeypatch.delenv(name)


ALLOCATED = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_JOB_NUM_NODES": "4"}
STEP = {"SLURMD_NODENAME": "n1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}


@pytest.mark.parametrize(
    ("environment", "nodes"),
    [({}, 1), (ALLOCATED, 1), (ALLOCATED | {"SLURMD_NODENAME": "n1"}, 4), (ALLOCATED | STEP, 1)],
    ids=["outside", "salloc", "script", "step"],
)
def test_nodes_of_a_command_that_names_none(outside, monkeypatch, environment, nodes):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert slurm.default_nodes() == nodes


def test_nodes_outside_of_slurm_are_refused(outside):
    assert launch_problems(nodes=2) == [
        "launch.nodes: 2 nodes are wanted, and this command does not run in a SLURM allocation"
    ]
    assert launch_problems(nodes=1) == launch_problems(name="auto") == []


def test_nodes_without_the_commands_to_reach_them_are_refused(outside, monkeypatch):
    for name, value in ALLOCATED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "/nowhere")
    assert launch_problems(nodes=4) == [
        "launch.nodes: 4 nodes, and no srun and scontrol here to start processes on them"
    ]


def test_single_is_one_process(outside):
    problem = "launch=single is one process"
    assert launch_problems(name="single", processes=2, nodes=3) == [
        f"launch.processes: {problem}",
        f"launch.nodes: {problem}",
    ]
    assert launch_problems(name="single", processes=1) == []


def test_a_command_started_by_torchrun_is_refused_whatever_the_mode(outside, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("single", "auto", "zero3"):
        (problem,) = launch_problems(name=name)
        assert problem.startswith("launch: this command was started as one of 2 processes")
    monkeypatch.setenv(preemption.STOP_FILE_VARIABLE, "/tmp/stop")  # a rank of ours
    assert launch_problems(name="zero3") == []


@pytest.mark.parametrize("size", ["0", "-2", "1.5", "many"])
def test_a_world_of_no_number_of_processes_is_refused(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    problems = check_config(compose([], [conf_dir()])).problems
    assert [problem.where for problem in problems] == ["WORLD_SIZE"] and "unset WORLD_SIZE" in problems[0].remedy


def test_zero_without_deepspeed_is_refused(outside, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    for name in ("zero1", "zero2", "zero3", "zero3_offload"):
        assert launch_problems(name=name) == [f"launch: {name} is DeepSpeed's, which is not installed"]
    assert launch_problems(name="ddp") == launch_problems(name="auto") == []


def test_more_processes_than_gpus_are_refused(outside, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert launch_problems(processes=4, device="auto") == [
        "launch.processes: 4 processes on each node, and 2 GPUs are visible",
    ]
    assert launch_problems(processes=2, device="auto") == launch_problems(processes=4, device="cpu") == []


def test_a_port_that_is_taken_is_refused(outside):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert launch_problems(port=port) == [f"launch.port: port {port} is in use"]
    assert launch_problems(port=port) == []
