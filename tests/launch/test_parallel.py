"""One process, DDP, ZeRO-2 and ZeRO-3 on two gloo ranks: the same training, the same answers, less memory held.

Ranks are started as runs start them, by torchrun; where nothing is killed they are warm. Tolerances are relative and
for float32 on CPUs: what is left between two modes is the order in which numbers are added; when it was
three steps, the largest difference seen was 2e-6.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import pytest
import torch
from helpers import ranks, warm
from helpers.ranks import FRUGAL, PLAIN, STEPS, Case, cases_of
from helpers.shared import ROOT, shape, tokenizer_at, with_helpers
from helpers.training import build_llama, cache_of, compose_method, random_llama, rows_for
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lume_run.common.errors import RunError
from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Ask, Response
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.evaluation.inference.respond import gather_responses
from lume_run.evaluation.saved_responses import read_cost
from lume_run.launch.spawn import rank_environment
from lume_run.launch.world import World
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline

pytestmark = pytest.mark.slow

CLOSE = 1e-5  # relative, in float32
MODES = ("ddp", "zero2", "zero3")
SHAPE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 5, "num_attention_heads": 8}
WEIGHTS = 2 * 400 * 768 + 5 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 768  # of that shape: 36 M


def run_helper(script: str, mode: str, *arguments: Path, log: Path) -> None:
    """Run one of the helpers as one process, or as two ranks."""
    world = World(mode=mode, processes=1 if mode == "single" else 2)
    environment = with_helpers(rank_environment(world, log.with_suffix(".stop")))
    ranks = [{}] if mode == "single" else warm.rank_variables(world.processes)
    environments = [environment | rank for rank in ranks]
    warm.run_together(mode, *map(str, arguments), module=f"helpers.{script}", log=log, environments=environments)


# ----------------------------------------------------------------------------------------------- the same training


@pytest.fixture(scope="module")
def llama(tiny, tmp_path_factory) -> Path:
    return build_llama(tiny, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def trained(llama, tmp_path_factory) -> Callable[[str], Path]:
    """What all trainings of a mode wrote; a mode that fails is not started again."""
    prepared, out = tmp_path_factory.mktemp("prepared"), tmp_path_factory.mktemp("trained")
    for name in ranks.METHODS:
        method = compose_method(name)
        (prepared / name).mkdir()
        (prepared / name / "method.pickle").write_bytes(pickle.dumps(method))
        pad_id = int(tokenizer_at(llama).pad_token_id)
        cache_of(llama, rows_for(method, llama, forget=ranks.FORGET), method, pad_id, prepared / name / "reference")
    seen: dict[str, Exception | AssertionError | None] = {}

    def of(mode: str) -> Path:
        if mode not in seen:
            try:
                seen[mode] = run_helper("ranks", mode, llama, prepared, out / mode, log=out / f"{mode}.log")
            except (AssertionError, subprocess.TimeoutExpired) as error:
                seen[mode] = error
        if (error := seen[mode]) is not None:
            raise error
        return out / mode

    return of


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize(("mode", "case"), [(mode, case) for mode in MODES for case in cases_of(mode)], ids=str)
def test_two_ranks_train_as_one_process_does(mode, case, trained):
    """All loss parts, the gradient norm and the weights; the one process neither accumulates nor computes again."""
    alone = trained("single") / str(Case(case.method, case.lora, sharpness=case.sharpness))
    ours = trained(mode) / str(case)
    history, expected = (read(folder / "history.json") for folder in (ours, alone))
    assert len(history) == len(expected) == STEPS
    for step, (entry, expected_entry) in enumerate(zip(history, expected, strict=True)):
        assert entry.keys() == expected_entry.keys() >= {"loss", "grad_norm", "learning_rate"}
        for part, value in expected_entry.items():
            assert entry[part] == pytest.approx(value, rel=CLOSE, abs=CLOSE / 10), f"{part} of step {step + 1}"
    weights, same = weights_in(ours), weights_in(alone)
    assert weights.keys() == same.keys()
    apart = math.sqrt(sum(float(((weights[name] - value).double() ** 2).sum()) for name, value in same.items()))
    moved = read(alone / "moved.json")
    assert moved > 0.1  # two steps of at most 0.15
    assert apart < CLOSE * moved


def test_every_objective_is_in_the_matrix():
    for mode in ("zero2", "zero3"):
        assert {(case.method, case.lora) for case in cases_of(mode)} == {(case.method, case.lora) for case in PLAIN}
        for lora in (False, True):
            frugal = {case.method for case in cases_of(mode) if case.lora == lora and case in FRUGAL}
            assert frugal >= {name for name in ranks.METHODS if compose_method(name).needs.live_reference}
        for name, lora in product(ranks.ALL_WAYS, (False, True)):
            ways = {
                (case.micro, case.checkpointing) for case in cases_of(mode) if (case.method, case.lora) == (name, lora)
            }
            assert ways == set(product((16, 2), (False, True)))
    assert len(PLAIN) == len(FRUGAL) == 2 * len(ranks.METHODS)


# -------------------------------------------------------------------------------------------- what each rank holds


@pytest.fixture(scope="module")
def held(tiny, tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """By mode, what each rank held of a model of 36 M weights in bfloat16, trained in float32 beside its reference."""
    folder = tmp_path_factory.mktemp("held")
    random_llama(tiny, folder / "llama", torch.bfloat16, **SHAPE)
    modes = ("single", "zero2", "zero3")
    for mode in modes:
        run_helper("footprint", mode, folder / "llama", folder, log=folder / f"{mode}.log")
    return {mode: [read(path) for path in sorted(folder.glob(f"{mode}-*.json"))] for mode in modes}


def test_zero3_shards_policy_and_reference(held):
    for mode, parts in (("single", 1), ("zero2", 1), ("zero3", 2)):
        assert len(held[mode]) == (1 if mode == "single" else 2)
        for rank in held[mode]:
            for model in ("policy", "reference"):
                assert rank[model] == pytest.approx(4 * WEIGHTS / parts, rel=0.01), (mode, model)
            for entry, expected in zip(rank["history"], held["single"][0]["history"], strict=True):
                assert entry["loss"] == pytest.approx(expected["loss"], rel=CLOSE)


def test_zero3_never_loads_a_whole_copy(held):
    """Peaks above what the process held before loading, on every rank; both models together are one whole copy."""
    both = 2 * 4 * WEIGHTS
    (alone,) = held["single"]
    assert alone["loading"] > 0.95 * both
    for rank in held["zero3"]:
        assert rank["loading"] < 0.65 * both
    assert mean(rank["training"] for rank in held["zero3"]) < mean(rank["training"] for rank in held["zero2"])


# ---------------------------------------------------------------------------------------------------- from end to end

SMALL = (
    "task.num_documents=1",
    *shape(96, 4, 288),
    "trainer.unlearn.epochs=6",
    "trainer.unlearn.batch_size=6",
    "evaluator.max_new_tokens=48",
    "evaluator.resamples=0",
    "launch.device=cpu",
)


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Callable[[str, int], Path]:
    """`lume-run` trains a target, unlearns and evaluates before and after; the folder of a mode's runs.

    What several processes would make of the target is in the matrix above; they find the one process's.
    """
    folder = tmp_path_factory.mktemp("commands")

    def run(mode: str, processes: int) -> Path:
        if processes > 1:
            shutil.copytree(folder / "single" / "store", folder / mode / "store")
        overrides = (f"launch={mode}", f"launch.processes={processes}", f"output_dir={folder / mode}")
        environment = {**os.environ, **warm.rank_variables_of_runs()}
        done = warm.run(*SMALL, *overrides, cwd=ROOT, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        assert (f"launch {mode}, {processes} processes" in done.stderr) == (processes > 1)
        return folder / mode

    return run


@pytest.fixture(scope="module")
def alone(command) -> Path:
    return command("single", 1)


def test_the_command_gives_the_same_scores_under_zero2(alone, command):
    scores, expected = (read(next(folder.glob("*/report.json")))["scores"] for folder in (command("zero2", 2), alone))
    assert expected["target.forget.bios.knowledge"] == 1
    assert expected["unlearned.forget.bios.knowledge"] < 1
    same_scores(scores, expected)


def same_scores(scores: dict[str, float | None], expected: dict[str, float | None]) -> None:
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert scores[name] == (None if value is None else about(value)), name


def about(value: Any) -> Any:
    return pytest.approx(value, rel=CLOSE, abs=CLOSE)


# ---------------------------------------------------------------------------------------------------- the same answers

ASKED = (
    "stages=[evaluate]",
    "task.num_documents=3",
    "evaluator=full",
    *(f"~evaluator.suites.{name}" for name in ("closer_look", "tofu", "muse", "perplexity", "nq_open", "halueval")),
    "~evaluator.suites.lm_eval",
    "evaluator.batch_tokens=64",
    "evaluator.max_new_tokens=24",
    "evaluator.resamples=0",
    "launch.device=cpu",
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A run that evaluates one model, in this process as driver."""

    folder: Path
    overrides: tuple[str, ...]

    def start(self) -> None:
        """Answer what is not answered yet, and score it."""
        overrides = [*ASKED, *self.overrides, f"output_dir={self.folder.parent}"]
        settings, data = require_settings(compose(overrides, [conf_dir()]))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(data)), encoding="utf-8")
        run_pipeline(settings, self.folder, identity=run_identity(data), command=["test"])

    @property
    def partial(self) -> Path:
        """Where ranks write while they answer."""
        (path,) = self.folder.parent.glob("store/responses/*.partial")
        return path

    @property
    def answers(self) -> Path:
        """The finished answers."""
        (path,) = self.folder.parent.glob("store/responses/*/responses.jsonl")
        return path

    @property
    def responses(self) -> list[Response]:
        return read_jsonl(self.answers, Response)

    @property
    def scores(self) -> dict[str, float | None]:
        return read(self.folder / "report.json")["scores"]

    @property
    def prompts(self) -> int:
        """How many runs of the model it took."""
        return sum(cost["prompts"] for cost in read_cost(self.answers.parent).values())


@pytest.fixture(scope="module")
def evaluated(alone, tmp_path_factory) -> Callable[..., Evaluation]:
    """The evaluation of a model that knows half the documents, in some launch mode; not started yet."""
    (target,) = (path.parent for path in alone.glob("store/target/*/model.safetensors"))

    def of(*overrides: str) -> Evaluation:
        folder = tmp_path_factory.mktemp("evaluated") / "run"
        return Evaluation(folder=folder, overrides=(f"model.path={target}", *overrides))

    return of


@pytest.fixture(scope="module")
def single(evaluated) -> Evaluation:
    """The answers of one process."""
    done = evaluated("launch=single")
    done.start()
    assert {response.ask for response in done.responses} == {Ask.GENERATE, Ask.SAMPLE, Ask.LOGPROB, Ask.GRADIENT}
    return done


@pytest.fixture
def warm_ranks(monkeypatch):
    """This process has its torchrun and ranks from the server of warm processes."""
    take_warm_ranks(monkeypatch)


def take_warm_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what this process starts from now on come from the server of warm processes."""
    variables = warm.rank_variables_of_runs()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", variables["PYTHON_EXEC"])


def same_answers(evaluation: Evaluation, expected: Evaluation) -> None:
    """Same records in the same order, numbers within CLOSE; same scores."""
    pairs = list(zip(evaluation.responses, expected.responses, strict=True))
    keys = [(ours.ask, ours.id, ours.variant) for ours, _ in pairs]
    assert len(set(keys)) == len(keys)
    for ours, theirs in pairs:
        for field in fields(Response):
            value = getattr(theirs, field.name)
            assert getattr(ours, field.name) == (about(value) if is_real(value) else value), (ours, field.name)
    same_scores(evaluation.scores, expected.scores)


def is_real(value: Any) -> bool:
    """Whether a field holds one or several real numbers."""
    return isinstance(value, float) or (isinstance(value, tuple) and any(isinstance(number, float) for number in value))


@pytest.mark.parametrize(("mode", "processes"), [("zero3", 2), ("ddp", 3)])
def test_any_number_of_ranks_gives_the_same_answers(mode, processes, evaluated, single, warm_ranks):
    done = evaluated(f"launch={mode}", f"launch.processes={processes}")
    done.start()
    same_answers(done, single)
    assert done.prompts == single.prompts  # none was asked twice


def ranks_below(driver: psutil.Process) -> dict[int, psutil.Process]:
    """The ranks that a driver started, by number."""
    processes = {}
    for process in driver.children(recursive=True):
        try:
            if "lume_run.pipeline.rank" in process.cmdline():
                processes[int(process.environ()["RANK"])] = process
        except (psutil.Error, KeyError):  # ended meanwhile, or not begun
            continue
    return processes


def records_in(folder: Path) -> int:
    """Whole lines that ranks wrote so far."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("responses.partial.*.jsonl"))


def test_a_killed_rank_fails_the_stage_and_nothing_is_asked_twice(evaluated, single, monkeypatch):
    """Rank 1 is killed -9 once it answered something; what both had answered by then stays. The next start is warm."""
    done, driver, killed = evaluated("launch=ddp", "launch.processes=2"), psutil.Process(), threading.Event()

    def kill() -> None:
        deadline, process = time.monotonic() + 300, None
        while time.monotonic() < deadline and not killed.is_set():
            process = process or ranks_below(driver).get(1)
            written = done.folder.parent.glob("store/responses/*.partial/responses.partial.1.jsonl")
            if process is not None and any(path.stat().st_size for path in written):
                process.send_signal(signal.SIGKILL)
                killed.set()
            time.sleep(0.005)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(RunError, match="Rank 1 was killed by SIGKILL"):
        done.start()
    killer.join()
    assert killed.is_set()
    assert not ranks_below(driver)
    before, questions, written = records_in(done.partial), len(single.responses), []
    assert 0 < before < questions

    def gather(asked: Any, folder: Path) -> None:
        written.append(records_in(folder))
        gather_responses(asked, folder)

    monkeypatch.setattr("lume_run.evaluation.inference.respond.gather_responses", gather)
    take_warm_ranks(monkeypatch)
    done.start()
    assert [total - before for total in written] == [questions - before]  # asked by the second start
    same_answers(done, single)


def test_what_a_rank_fails_with_is_told(evaluated, tmp_path, monkeypatch, warm_ranks):
    """One rank cannot load its data; its own words come back, and no process stays."""
    (tmp_path / "breaking.py").write_text(BREAKING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    broken = ("allow_external=[breaking]", "task._target_=breaking.Breaking")
    done = evaluated("launch=ddp", "launch.processes=2", *broken)
    with pytest.raises(RunError, match=r"failed in rank-1:(.|\n)*breaking\.py(.|\n)*ZeroDivisionError"):
        done.start()
    assert "Traceback" in (done.folder / "errors" / "rank-1.txt").read_text(encoding="utf-8")
    assert not ranks_below(psutil.Process())


BREAKING = """
import os
from dataclasses import dataclass
from lume_run.tasks.lume import LumeTask

@dataclass(frozen=True, kw_only=True)
class Breaking(LumeTask):
    def load(self, seed):
        if os.environ.get("RANK") == "1":
            1 / 0
        return super().load(seed)
"""
