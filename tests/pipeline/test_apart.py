"""Requests apart: the target is read once, and a killed run ends with the same numbers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from helpers.configs import settings_of
from helpers.interrupting import Runs, send
from helpers.shared import shape
from safetensors.torch import load_file

from lume_run.common.errors import ConfigError
from lume_run.models import load, merge
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run

pytestmark = pytest.mark.slow

SMALL = (
    *shape(32, 2, 48),
    "sequence=apart",
    "sequence.requests=3",
    "trainer.train.epochs=2",
    "trainer.unlearn.epochs=4",
    "trainer.unlearn.learning_rate=0.02",
    "trainer.unlearn.batch_size=2",
    "evaluator.max_new_tokens=4",
    "evaluator.resamples=10",
    "launch.device=cpu",
    "logger=none",
)
LORA = ("model.lora.enabled=true", "model.lora.target_modules=[q_proj,v_proj]")


def files_of(folder: Path, names: str, *, retained: str = "") -> tuple[str, ...]:
    """Options of task=custom with two rows about each of these documents on either side."""
    folder.mkdir(exist_ok=True)
    for side, documents in (("forget", names), ("retain", retained)):
        rows = [
            {"question": f"Who is {name}{number} of {side}?", "answer": f"A {number}.", "document": name}
            for name in documents
            for number in "12"
        ]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sides = (f"task.forget={folder}/forget.jsonl", f"task.retain={folder}/retain.jsonl")
    return ("task=custom", "evaluator=memorisation", *sides[: 1 + bool(retained)])


def run_at(folder: Path, *overrides: str) -> Run:
    return Run(settings_of(*SMALL, *overrides, f"output_dir={folder}"), folder / "run")


def answers(run: Run, name: str) -> bytes:
    return (run.folder / f"responses.{name}.jsonl").read_bytes()


def adapters_of(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.glob("requests/*/model/*.safetensors"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("overrides", "reads"),
    [
        (("method=npo_kl", *LORA, "model.lora.dropout=0.1", "trainer.unlearn.max_tokens=12"), 1),
        (("method=npo_kl",), 1),
        (("method=npo_kl", *LORA, "model.dtype=bfloat16"), 1),
        (("method=npo_kl", "model.dtype=bfloat16"), 3),  # log-probs, then float32 beside a frozen one
        (("method=task_vector", *LORA), 4),  # subtracted from one that is read for it, in float32
    ],
    ids=["adapters", "all weights", "adapters, bfloat16", "all weights, bfloat16", "task vector"],
)
def test_the_target_is_read_once_and_stays_what_it_was(overrides, reads, tmp_path, monkeypatch):
    """Adapters and answers are, byte for byte, those of a run that reads it anew each time."""
    paths: list[str] = []
    read = load.load_model

    def counted(path, *others, **named):
        paths.append(path)
        return read(path, *others, **named)

    for module in (load, merge):  # whichever was imported first
        monkeypatch.setattr(module, "load_model", counted)
    given = (*files_of(tmp_path, "abc", retained="abc"), *overrides)
    kept, anew = run_at(tmp_path / "kept", *given), run_at(tmp_path / "anew", *given)
    run_pipeline(kept.settings, kept.folder, identity={}, command=["test"])
    (target,) = [artifact for artifact in plan(kept).artifacts if artifact.name == "target"]
    times = paths.count(str(target.path))
    paths.clear()
    monkeypatch.setattr(load, "keeper_of", lambda path: None)
    run_pipeline(anew.settings, anew.folder, identity={}, command=["test"])
    assert len(adapters_of(kept.folder)) == 3
    assert adapters_of(kept.folder) == adapters_of(anew.folder)
    assert [answers(kept, name) for name in ("target", "unlearned")] == [
        answers(anew, name) for name in ("target", "unlearned")
    ]
    assert times <= reads < len([path for path in paths if "/target/" in path])


def test_what_losses_compare_with_is_computed_once_for_all(tmp_path):
    run = run_at(tmp_path, "method=npo", *files_of(tmp_path, "abc"))
    names = [artifact.name for artifact in plan(run).artifacts if artifact.stage == "unlearn"]
    assert names == ["reference", "request 1", "request 2", "request 3"]


def test_a_request_without_rows_to_keep_is_refused_before_work(tmp_path):
    run = run_at(tmp_path, "method=npo_gd", *files_of(tmp_path, "abc", retained="ad"))
    message = r"sequence.apart: 'npo_gd' reads rows to keep, and of 3 requests 2 have none about .* request 2 \(b\)"
    with pytest.raises(ConfigError, match=message):
        plan(run)
    assert not (tmp_path / "store").exists()


def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    """Killed while the second adapter is trained, and while its model answers."""
    given = (*files_of(tmp_path / "rows", "abc"), *SMALL, *LORA, "method=npo", "task.num_documents=3")
    given = (*given, "trainer.unlearn.epochs=30", "evaluator=memorisation")
    whole, struck = (Runs(tmp_path / name / "run", tmp_path / f"{name}.log", given) for name in ("whole", "struck"))
    assert whole.run_to_end().code == 0
    second = struck.folder / "requests/2.partial/checkpoints"
    kill = send(signal.SIGKILL)
    assert struck.strike_and_wait(kill, when=lambda: any(second.glob("checkpoint-*"))).code != 0
    assert (struck.folder / "requests/1/DONE.json").exists() and not (struck.folder / "requests/2").exists()
    answered = struck.folder.parent / "store/responses"
    assert struck.strike_and_wait(kill, when=lambda: len(list(answered.glob("*/DONE.json"))) == 2).code != 0
    end = struck.run_to_end()
    assert end.code == 0 and "cached" in end.text, end.text
    reports = [json.loads((runs.folder / "report.json").read_text(encoding="utf-8")) for runs in (whole, struck)]
    assert reports[0]["scores"] == reports[1]["scores"]
    files = [sorted(runs.folder.glob("requests/*/model/*.safetensors")) for runs in (whole, struck)]
    for file, other in zip(*files, strict=True):
        weights, others = load_file(file), load_file(other)
        assert len(files[0]) == 3 and all((weights[name] == others[name]).all() for name in weights)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_adapters_over_a_quantised_target(bits, tmp_path):
    """It is trained on in fewer bits and answers in its own: two readings, whatever the number of requests."""
    pytest.importorskip("bitsandbytes")
    small = run_at(tmp_path / "first", "method=npo", *files_of(tmp_path, "abc"), "stages=[train,unlearn]")
    run_pipeline(small.settings, small.folder, identity={}, command=["test"])
    (target,) = [artifact.path for artifact in plan(small).artifacts if artifact.name == "target"]
    given = ("model=hf", f"model.path={target}", "model.is_target=true", f"model.quantize={bits}", *LORA)
    options = [option for option in SMALL if not option.startswith("model.shape")]
    settings = settings_of(*options, *files_of(tmp_path, "abc"), "method=npo", *given, f"output_dir={tmp_path / 'out'}")
    run = Run(settings, tmp_path / "out/run")
    run_pipeline(run.settings, run.folder, identity={}, command=["test"])
    assert len(adapters_of(run.folder)) == 3 == len(set(adapters_of(run.folder).values()))
    assert answers(run, "unlearned") != answers(run, "target")
