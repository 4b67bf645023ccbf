"""Runs that are stopped, killed, or left without room, as real processes: they resume, and end where others do."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import resumes, warm
from helpers.interrupting import Disk, End, Runs, gone, kill, ranks, send
from helpers.resumes import CASES, STEPS, STOPPED_AT
from helpers.shared import tokenizer_at, with_helpers
from helpers.training import cache_of, compose_method, rows_for
from safetensors.torch import load_file

from lume_run.common import store
from lume_run.common.errors import RunError
from lume_run.common.store import RANKS_LOCK, wait_for_ranks
from lume_run.launch.preemption import REQUEUE, STOP_FILE_VARIABLE
from lume_run.launch.world import World
from lume_run.training.checkpoints import (
    COMPLETE,
    FILE_SIZES,
    WRITING,
    atomic_checkpoint,
    checkpoint_to_resume,
    complete_checkpoints,
)
from lume_run.training.zero import read_tensors_only

pytestmark = pytest.mark.slow

DDP = ("launch=ddp", "launch.processes=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Runs:
    """Nobody disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    runs = Runs(folder / "run", folder / "printed.txt")
    end = runs.run_to_end()
    assert end.code == 0, end.text
    return runs


# ---------------------------------------------------------------------------------------------------- one process


@dataclass(frozen=True)
class Story:
    """What became of the starts of one run, and what was there in between."""

    runs: Runs
    ends: dict[str, End]
    halfway: list[str]  # records when evaluation was stopped
    crowded: list[str]  # and when its disk was full
    mounted: bool


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[Story]:
    """One run in one process that is stopped, and whose disk is full, while unlearning and while answering."""
    folder = tmp_path_factory.mktemp("alone")
    disk = Disk(folder)
    runs = Runs(folder / "run", tmp_path_factory.mktemp("printed") / "alone.txt")
    try:
        ends = {name.name: runs.strike_and_wait(send(name)) for name in (signal.SIGTERM, signal.SIGUSR2)}
        ends["full"] = runs.strike_and_wait(disk.fill)
        disk.relieve()
        ends["answering"] = runs.strike_and_wait(send(signal.SIGTERM), when=lambda: len(runs.records) > 10)
        halfway = runs.records
        ends["full, answering"] = runs.strike_and_wait(disk.fill, when=lambda: len(runs.records) > len(halfway) + 5)
        disk.relieve()
        crowded = runs.records
        ends["finished"] = runs.run_to_end()
        yield Story(runs, ends, halfway, crowded, disk.mounted)
    finally:
        disk.close()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "answering"])
def test_a_signal_asks_to_be_queued_again(alone, name):
    end = alone.ends[name]
    assert end.code == REQUEUE == 75
    assert "Stopped " in end.text
    assert "Traceback" not in end.text


def test_a_signal_makes_a_checkpoint_after_the_step_under_way(alone):
    first, second = alone.ends["SIGTERM"], alone.ends["SIGUSR2"]
    assert f"Stopped after step {first.step};" in first.text
    assert f"resuming from checkpoint-{first.step}\n" in second.text
    assert 10 < first.step < second.step < 60
    assert (first.step % 10, second.step % 10) != (0, 0)  # where none was due


def test_a_full_disk_is_named_and_keeps_the_last_good_checkpoint(alone):
    end = alone.ends["full"]
    assert end.code == 1
    assert "Traceback" not in end.text
    assert "The disk is full: " in end.text
    assert f"{alone.runs.checkpoints} could not be written; 0 MiB are free there" in end.text or not alone.mounted
    assert "trainer.keep_checkpoints=1" in end.text
    assert end.step > alone.ends["SIGUSR2"].step
    assert f"resuming from checkpoint-{end.step}\n" in alone.ends["answering"].text


def test_a_full_disk_while_answering_is_named_and_keeps_the_answers(alone):
    end = alone.ends["full, answering"]
    assert end.code == 1
    assert "Traceback" not in end.text
    assert "The disk is full: " in end.text
    assert len(alone.crowded) > len(alone.halfway) + 5
    assert alone.crowded[: len(alone.halfway)] == alone.halfway


def test_what_was_answered_is_not_asked_again(alone, whole):
    assert alone.ends["finished"].code == 0, alone.ends["finished"].text
    kept = "".join(path.read_text() for path in alone.runs.folder.parent.glob("store/responses/*/responses.jsonl"))
    assert len(alone.halfway) > 10
    assert all(line in kept for line in alone.halfway)
    assert 0 < alone.runs.prompts <= whole.prompts


def test_it_ends_with_the_weights_of_an_undisturbed_run(alone, whole):
    weights, expected = alone.runs.weights, whole.weights
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    histories = [json.loads((runs.folder / "unlearned" / "history.json").read_text()) for runs in (alone.runs, whole)]
    assert histories[0] == histories[1]
    responses = [(runs.folder / "responses.unlearned.jsonl").read_bytes() for runs in (alone.runs, whole)]
    assert responses[0] == responses[1]


@pytest.mark.parametrize("case", CASES)
def test_the_same_random_numbers_come_after_a_stop(case, tiny, tmp_path):
    """In this process; a dropout on the adapters draws some in every step."""
    resumes.train_whole(case, World(), tiny, tmp_path)
    torch.manual_seed(1)
    resumes.train_until_stopped(case, World(), tiny, tmp_path)
    torch.manual_seed(2)
    resumes.resume(case, World(), tiny, tmp_path)
    weights, expected = (weights_in(tmp_path / part) for part in ("resumed", "whole"))
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


# -------------------------------------------------------------------------------------------------- several ranks


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory) -> Iterator[tuple[Runs, dict[str, End], dict[str, bool]]]:
    """One run in two processes, and in between in one, of which some are stopped, and some killed.

    The first ranks that are struck, and their torchrun, start anew; the others are warm.
    """
    folder = tmp_path_factory.mktemp("ranks")
    runs = Runs(folder / "run", folder / "printed.txt")
    seen: list[int] = []
    left: dict[str, bool] = {}

    def strike(number: signal.Signals, place: int | None):
        """Signal a rank, or with None the driver."""

        def now(process: warm.Process) -> None:
            pids = ranks(runs.folder)
            assert len(pids) == 3  # the agent and two ranks
            seen[:] = [*pids, *warm.behind(pids)]
            os.kill(process.pid if place is None else pids[1 + place], number)

        return now

    ends: dict[str, End] = {}
    for name, number, place, warm_ranks in (
        ("rank killed", signal.SIGKILL, 1, "/store/"),
        ("rank signalled", signal.SIGUSR2, 1, "."),
        ("driver killed", signal.SIGKILL, None, "."),
    ):
        ends[name] = runs.strike_and_wait(strike(number, place), *DDP, warm_ranks=warm_ranks)
        left[name] = gone(seen)
    ends["alone"] = runs.strike_and_wait(send(signal.SIGTERM))
    answered = strike(signal.SIGUSR2, 0)
    ends["answering"] = runs.strike_and_wait(answered, *DDP, when=lambda: len(runs.records) > 2, warm_ranks=".")
    left["answering"] = gone(seen)
    ends["finished"] = runs.run_to_end()
    yield runs, ends, left
    kill(*ranks(runs.folder))


def test_no_rank_outlives_another_or_the_driver(shared_out):
    assert shared_out[2] == dict.fromkeys(("rank killed", "rank signalled", "driver killed", "answering"), True)


def test_a_start_waits_for_ranks_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.3)
    wait_for_ranks(tmp_path)  # of none
    with (tmp_path / RANKS_LOCK).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_SH)  # as a rank does
        with pytest.raises(RunError, match=f"still write to {tmp_path}"):
            wait_for_ranks(tmp_path)
    wait_for_ranks(tmp_path)


def test_a_killed_rank_is_named(shared_out):
    end = shared_out[1]["rank killed"]
    assert end.code == 1
    assert "Rank 1 was killed by SIGKILL" in end.text
    assert "Traceback" not in end.text


@pytest.mark.parametrize("name", ["rank signalled", "answering"])
def test_a_signal_to_one_rank_stops_all(shared_out, name):
    end = shared_out[1][name]
    assert end.code == REQUEUE, end.text
    assert "Stopped while making " in end.text
    assert "Traceback" not in end.text


def test_each_start_goes_on_where_the_one_before_stopped(shared_out):
    _, ends, _ = shared_out
    order = ["rank killed", "rank signalled", "driver killed", "alone", "answering"]
    for before, after in pairwise(order):
        assert f"resuming from checkpoint-{ends[before].step}\n" in ends[after].text, after
    assert ends["rank signalled"].step % 10 != 0  # stopped in the middle


def test_one_process_and_two_end_with_the_same_weights(shared_out, whole):
    """Not bit for bit: sums over rows are taken in another order."""
    runs, ends, _ = shared_out
    assert ends["finished"].code == 0, ends["finished"].text
    for name, value in runs.weights.items():
        torch.testing.assert_close(value, whole.weights[name], atol=1e-5, rtol=1e-4, msg=name)
    assert 0 < runs.prompts <= whole.prompts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_is_heard_at_another_process_s_lock(number, whole, tmp_path):
    """The process ends while the lock is still held, which it would wait for without end."""
    runs = Runs(tmp_path / "run", tmp_path / "printed.txt", ("logger=none",))
    base = next(path.name for path in (whole.folder.parent / "store" / "base").iterdir() if path.is_dir())
    (tmp_path / "store" / "base").mkdir(parents=True)
    with FileLock(tmp_path / "store" / "base" / f"{base}.lock"):
        process = runs.start()
        runs.until(process, lambda: "waiting for another process" in runs.log.read_text(encoding="utf-8"))
        process.send_signal(number)
        end = runs.wait(process)
    assert end.code == REQUEUE, end.text
    assert "Traceback" not in end.text and "the same command resumes from here" in end.text


# ------------------------------------------------------------------------------------------------------- DeepSpeed


@pytest.fixture(scope="module")
def zero(request, tiny, tmp_path_factory) -> tuple[str, Path]:
    """Two ranks train every case whole, and once more with a stop; then one rank resumes from where they stopped."""
    pytest.importorskip("deepspeed")
    mode = request.param
    out = tmp_path_factory.mktemp(mode)
    method = compose_method("npo_gd")
    for case in CASES:
        (out / case).mkdir()
        cache_of(tiny, rows_for(method, tiny), method, tokenizer_at(tiny).pad_token_id, out / case / "reference")
    in_ranks(2, mode, tiny, out)
    for case in CASES:
        other = out / "one" / case
        shutil.copytree(out / case / "reference", other / "reference")
        kept = out / case / "checkpoints" / f"checkpoint-{STOPPED_AT}"
        shutil.copytree(kept, other / "checkpoints" / kept.name)
    in_ranks(1, mode, tiny, out / "one", "resumed")
    return mode, out


def in_ranks(count: int, mode: str, model: Path, out: Path, *only: str) -> None:
    """Run helpers.resumes in so many ranks."""
    environment = with_helpers() | {"OMP_NUM_THREADS": "1", STOP_FILE_VARIABLE: str(out / "STOP")}
    environments = [environment | rank for rank in warm.rank_variables(count)]
    arguments = (mode, str(model), str(out), *only)
    warm.run_together(*arguments, module="helpers.resumes", log=out / "ranks.log", environments=environments)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.parametrize("zero", ["zero2", "zero3"], indirect=True)
class TestZero:
    @pytest.mark.parametrize("case", CASES)
    def test_a_stopped_training_ends_bit_for_bit_the_same(self, zero, case):
        _, out = zero
        weights, expected = (weights_in(out / case / part) for part in ("resumed", "whole"))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in weights.items())
        histories = [json.loads((out / case / part / "history.json").read_text()) for part in ("resumed", "whole")]
        assert histories[0] == histories[1]
        assert len(histories[0]) == STEPS

    @pytest.mark.parametrize("case", ["full", "lora"])  # dropout draws other numbers in other ranks
    def test_another_number_of_ranks_goes_on(self, zero, case):
        _, out = zero
        weights, expected = (weights_in(out / part) for part in (f"one/{case}/resumed", f"{case}/whole"))
        assert weights.keys() == expected.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5, msg=name)

    @pytest.mark.parametrize("case", ["full"])
    def test_another_stage_is_refused(self, zero, case):
        mode, out = zero
        for other in (World(), World(mode="ddp", processes=2), World(mode="zero1", processes=2)):
            with pytest.raises(RunError, match=rf"written by {mode}, 2 processes, and cannot be read by {other}"):
                checkpoint_to_resume(out / case / "checkpoints", other)


class Planted:
    """A pickle of it leaves a file where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_planted_pickle_in_a_checkpoint_does_not_run(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")  # so that it is as before when the test ends
    torch.save({"state": Planted(tmp_path / "mark")}, tmp_path / "optim_states.pt")
    torch.save({"state": torch.ones(2)}, tmp_path / "sound.pt")
    read_tensors_only()
    engine = TorchCheckpointEngine(None)
    with pytest.raises(pickle.UnpicklingError):
        engine.load(str(tmp_path / "optim_states.pt"))
    assert not (tmp_path / "mark").exists()
    assert torch.equal(engine.load(str(tmp_path / "sound.pt"))["state"], torch.ones(2))


# ------------------------------------------------------------------------------------------------ whole or not there


def write(folder: Path, step: int, *, keep: int = 2, world: World | None = None) -> None:
    with atomic_checkpoint(folder, step, world or World(), keep):
        checkpoint = folder / WRITING / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(str(step), encoding="utf-8")


def test_the_newest_whole_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 15, 9):
        write(tmp_path, step)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-15", "checkpoint-10"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-15", WRITING]


def test_the_last_good_one_stays_until_the_next_is_whole(tmp_path):
    write(tmp_path, 5, keep=1)
    with pytest.raises(RunError, match="The disk is full: ") as caught, atomic_checkpoint(tmp_path, 10, World(), 1):
        checkpoint = tmp_path / WRITING / "checkpoint-10"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").touch()
        raise OSError(28, os.strerror(28))
    assert str(tmp_path) in str(caught.value)
    assert checkpoint_to_resume(tmp_path, World()) == tmp_path / "checkpoint-5"
    write(tmp_path, 10, keep=1)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-10"]
    assert (tmp_path / "checkpoint-10" / "weights").read_text() == "10"


def test_a_checkpoint_killed_while_it_was_deleted_does_not_count(tmp_path, monkeypatch):
    write(tmp_path, 5, keep=1)

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lume_run.training.checkpoints.shutil.rmtree", lambda path, **options: options or killed(path))
        write(tmp_path, 10, keep=1)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-10"]


def test_a_checkpoint_without_its_mark_does_not_count(tmp_path):
    write(tmp_path, 5)
    write(tmp_path, 10)
    (tmp_path / "checkpoint-10" / COMPLETE).unlink()
    assert checkpoint_to_resume(tmp_path, World()) == tmp_path / "checkpoint-5"
    write(tmp_path, 10)  # and makes way for a whole one
    assert (tmp_path / "checkpoint-10" / COMPLETE).exists()


@pytest.mark.parametrize("damage", ["cut", "lost", "records"])
def test_of_a_damaged_checkpoint_the_next_older_is_taken(damage, tmp_path, capsys):
    write(tmp_path, 5)
    write(tmp_path, 10)
    newest = tmp_path / "checkpoint-10"
    if damage == "cut":
        os.truncate(newest / "weights", 1)
    elif damage == "lost":
        (newest / "weights").unlink()
    else:
        (newest / FILE_SIZES).write_text("[", encoding="utf-8")
    assert checkpoint_to_resume(tmp_path, World()) == tmp_path / "checkpoint-5"
    printed = "".join(capsys.readouterr().err.split())  # broken into lines wherever the path is too long
    assert "checkpoint-10isdamaged" in printed
    write(tmp_path, 10)  # and makes way for a whole one
    assert checkpoint_to_resume(tmp_path, World()) == newest


def test_worlds_without_deepspeed_read_each_others_checkpoints(tmp_path):
    write(tmp_path, 5, world=World(mode="ddp", processes=4))
    assert checkpoint_to_resume(tmp_path, World()) == tmp_path / "checkpoint-5"
    with pytest.raises(RunError, match=r"only single and ddp can read them.\n  - resume with launch=ddp"):
        checkpoint_to_resume(tmp_path, replace(World(), mode="zero2", processes=4))
