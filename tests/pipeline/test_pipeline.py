"""The whole pipeline through the real command line: the embedded default, real rows, kills, caches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import warm
from helpers.shared import ROOT, shape

pytestmark = pytest.mark.slow

SMALL = (
    "task.num_documents=3",
    *shape(48, 4, 96),
    "trainer.train.epochs=12",
    "trainer.unlearn.epochs=8",
    "trainer.checkpoint_every=7",
    "evaluator.max_new_tokens=24",
    "evaluator.batch_tokens=256",
)


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "lume_run.cli", *overrides]


def lume_run(*overrides: str, check: bool = True) -> warm.Ended:
    done = warm.run(*overrides, cwd=ROOT, timeout=600)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


def report(output_dir: Path) -> dict:
    (path,) = (
        output_dir.glob("bios-*/report.json") if any(output_dir.glob("bios-*")) else output_dir.glob("*/report.json")
    )
    return json.loads(path.read_text(encoding="utf-8"))


def weights(output_dir: Path) -> bytes:
    (path,) = output_dir.glob("*/unlearned/model/model.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def default_run(tmp_path_factory) -> Path:
    """Plain `lume-run`, the way a newcomer starts it."""
    output_dir = tmp_path_factory.mktemp("default")
    subprocess.run(command(f"output_dir={output_dir}"), cwd=ROOT, capture_output=True, check=True, timeout=600)
    return output_dir


def test_embedded_default_memorises_then_forgets(default_run):
    scores = report(default_run)["scores"]
    assert scores["target.forget.bios.knowledge"] >= 0.95
    assert scores["target.retain.bios.knowledge"] >= 0.95
    assert scores["unlearned.forget.bios.knowledge"] <= 0.3
    assert scores["unlearned.retain.bios.knowledge"] >= 0.7
    assert scores["unlearned.aggregate"] is None  # no MMLU by default, and it says so
    assert "evaluator.mmlu.data_dir" in report(default_run)["reasons"]["unlearned.aggregate"]


def test_default_leaves_a_repeatable_folder(default_run):
    (folder,) = [path.parent for path in default_run.glob("*/report.json")]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert {"command", "config_hash", "seed", "versions", "hardware", "artifacts"} <= manifest.keys()
    assert (Path(manifest["artifacts"]["unlearned"]) / "config.json").exists()
    knowledge = report(default_run)["scores"]["target.forget.bios.knowledge"]
    low, high = report(default_run)["intervals"]["target.forget.bios.knowledge"]
    row = f"| forget.bios.knowledge | lower | {knowledge:.3f} [{low:.3f}, {high:.3f}]† |"  # over twelve documents
    assert row in (folder / "report.md").read_text(encoding="utf-8")
    before, spent = report(default_run)["scores"], report(default_run)["seconds"]
    done = subprocess.run(
        [sys.executable, "-m", "lume_run", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    cached = [line.split()[1] for line in done.stderr.splitlines() if line.rstrip().endswith("cached")]
    assert cached == ["base", "target", "reference", "unlearned", "target", "unlearned"]  # the last two: responses
    assert report(default_run)["scores"] == before
    assert report(default_run)["seconds"] == spent  # what making it took, not what showing it again took
    assert spent["train"] > 1


def test_one_response_a_prompt(default_run):
    (folder,) = [path.parent for path in default_run.glob("*/report.json")]
    lines = (folder / "responses.unlearned.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    asked = [(json.loads(line)["ask"], json.loads(line)["id"]) for line in lines]
    assert len(asked) == len(set(asked)) == 144 + 24  # 24 documents x 6 prompts, 12 members, 12 non-members


def test_scores_are_recomputed_without_a_model(default_run, tmp_path):
    (responses,) = default_run.glob("*/responses.unlearned.jsonl")
    lume_run("stages=[score]", f"responses={responses}", f"output_dir={tmp_path}")
    again = report(tmp_path)["scores"]
    expected = {k: v for k, v in report(default_run)["scores"].items() if k.startswith("unlearned.")}
    assert {name.replace("model.", "unlearned.", 1): value for name, value in again.items()} == expected


def test_any_folder_can_be_evaluated(default_run, tmp_path):
    (model,) = default_run.glob("*/unlearned/model")
    lume_run("stages=[evaluate]", f"model.path={model}", f"output_dir={tmp_path}")
    again = report(tmp_path)["scores"]
    expected = report(default_run)["scores"]
    for name, value in again.items():
        assert value == pytest.approx(expected[name.replace("model.", "unlearned.", 1)], abs=1e-9), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("uninterrupted")
    lume_run(*SMALL, f"output_dir={output_dir}")
    return output_dir


def kill_when(condition, *overrides: str) -> None:
    """Start the command and kill -9 it once `condition()` holds; fails if it ends before."""
    with Path(os.devnull).open("wb") as log:
        process = warm.start(*overrides, module="lume_run.cli", cwd=ROOT, log=log)
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


MOMENTS = {
    "train": "store/target/*.partial/checkpoints/checkpoint-*/COMPLETE",
    "unlearn": "*/unlearned.partial/checkpoints/checkpoint-*/COMPLETE",
    "evaluate": "store/responses/*.partial/responses.partial.0.jsonl",
}


@pytest.mark.parametrize("stage", MOMENTS)
def test_killed_run_continues_to_the_same_end(stage, uninterrupted, tmp_path):
    def reached() -> bool:
        paths = list(tmp_path.glob(MOMENTS[stage]))
        return any(path.name == "COMPLETE" or path.stat().st_size > 2000 for path in paths)

    kill_when(reached, *SMALL, f"output_dir={tmp_path}")
    assert not list(tmp_path.glob("*/report.json"))
    again = lume_run(*SMALL, f"output_dir={tmp_path}")
    if stage != "evaluate":
        assert "resuming from checkpoint-" in again.stderr
    assert weights(tmp_path) == weights(uninterrupted)
    assert report(tmp_path)["scores"] == report(uninterrupted)["scores"]


def test_training_alone_says_where_the_target_is(uninterrupted):
    done = lume_run(*SMALL, "stages=[train]", f"output_dir={uninterrupted}")
    (line,) = [line for line in done.stderr.splitlines() if "before model:" in line]
    assert (Path(line.split("before model: ")[1]) / "model.safetensors").exists()
    assert "score" not in done.stderr  # no empty table


def test_runs_share_targets_in_the_store(uninterrupted):
    done = lume_run(*SMALL, "method=gd", "dry_run=true", f"output_dir={uninterrupted}")
    rows = [line for line in done.stderr.splitlines() if "│" in line]
    states = [line for line in rows if "cached" in line or "due" in line]
    assert [("cached" in line) for line in states] == [True, True, False, True, False]


PROBE = """
import sys
from lume_run import cli
sys.argv[0] = "lume-run"
cli.main()
libraries = {"torch", "transformers", "datasets", "wandb", "matplotlib", "pandas", "rouge_score", "nltk"}
print("imported:", *sorted(libraries & sys.modules.keys()))
"""


def test_a_finished_run_is_shown_without_what_computes(uninterrupted):
    """Its scores and its plot are as they were, to the byte and the moment."""
    (folder,) = [path.parent for path in uninterrupted.glob("bios-*-npo_gd-*/report.json")]
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("[rsf]*.*")}
    assert {"report.json", "finished.json", "scores.unlearned.json"} <= before.keys()
    arguments = [*SMALL, f"output_dir={uninterrupted}"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip().split("\n")[-1] == "imported:"
    assert "forget.bios.knowledge" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("[rsf]*.*")} == before


def test_retrained_reference_never_saw_the_forget_set(uninterrupted):
    before = {path.name for path in uninterrupted.glob("*-*")}
    lume_run(*SMALL, "evaluator.retrained=true", "evaluator.max_new_tokens=23", f"output_dir={uninterrupted}")
    (folder,) = [path for path in uninterrupted.glob("*-*") if path.name not in before and path.is_dir()]
    scores = json.loads((folder / "report.json").read_text(encoding="utf-8"))["scores"]
    assert scores["retrained.forget.bios.knowledge"] <= scores["target.forget.bios.knowledge"]
    assert "retrained" in (folder / "report.md").read_text(encoding="utf-8")


def test_real_rows(shared, tmp_path):
    small = [entry for entry in SMALL if not entry.startswith("task.num_documents")]
    lume_run(
        "-m",
        *small,
        "task=bios",
        f"task.data_dir={shared / 'data' / 'lume'}",
        "task.num_documents=2",
        f"evaluator.mmlu.data_dir={shared / 'data' / 'mmlu'}",
        "evaluator.mmlu.limit=1",
        "method=ga,gd,kl,npo",
        f"output_dir={tmp_path}",
    )
    for method in ("ga", "gd", "kl", "npo"):
        (path,) = tmp_path.glob(f"bios-tiny-{method}-*/report.json")
        contents = json.loads(path.read_text(encoding="utf-8"))
        assert contents["n"]["unlearned.mmlu.accuracy"] == 57
        assert contents["scores"]["unlearned.aggregate"] is not None
        assert contents["mmlu_gate"]["passed"] in (True, False)


def test_pretrained_model_with_adapters(shared, tmp_path):
    lume_run(
        "task.num_documents=2",
        f"model.path={shared / 'models' / 'stories260K'}",
        "model.lora=true",
        "method=kl",
        "trainer.train.epochs=2",
        "trainer.unlearn.epochs=2",
        "evaluator.max_new_tokens=16",
        f"output_dir={tmp_path}",
    )
    assert report(tmp_path)["scores"]["unlearned.retain.bios.regurgitation"] is not None


def test_bad_data_is_refused_before_anything_runs(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "forget.jsonl").write_text(
        '{"id": "a1sc1", "input": "x", "output": "", "task": "Task2"}\nnot json\n', encoding="utf-8"
    )
    (data / "retain.jsonl").write_text(
        '{"id": "b1sc1", "input": "y", "output": "z", "task": "Task9"}\n', encoding="utf-8"
    )
    done = lume_run(f"task.data_dir={data}", f"output_dir={tmp_path / 'out'}", check=False)
    assert done.returncode == 2
    for place in ("forget.jsonl:1", "forget.jsonl:2", "retain.jsonl:1"):
        assert place in done.stderr
    assert "Traceback" not in done.stderr
