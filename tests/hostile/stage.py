"""What all cases share, and how one of them runs: as the real command, or in a process forked after the imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO

from helpers import warm

from hostile import (
    benchmarks,
    comparisons,
    data,
    folders,
    handed_on,
    keys,
    models,
    options,
    recipes,
    runs,
    store,
    suites,
    surroundings,
    tables,
    texts,
    values,
)
from hostile.case import MARK, Case, Outcome

HANG_SECONDS = 60.0  # on an idle machine
OUTPUT_BYTES = 200_000  # more is not looked at
BIN = Path(sys.executable).parent
PROGRAMS = {
    "run": [str(BIN / "lume-run")],
    "compare": [str(BIN / "lume-run-compare")],
    "report": [str(BIN / "lume-run-report")],
    "publish": [str(BIN / "lume-run-publish")],
    "repeat": [sys.executable, "-m", "lume_run"],
}
KINDS: dict[ModuleType, tuple[str, ...]] = {  # modules of cases, and what of the stage their cases need
    **dict.fromkeys((keys, values, recipes), ()),
    **dict.fromkeys((models, folders), ("model",)),
    **dict.fromkeys((data, tables, suites), ()),
    runs: ("run",),
    handed_on: ("model", "run"),
    surroundings: ("run",),
    **dict.fromkeys((options, texts, benchmarks, comparisons), ()),
    store: ("run",),
}
MODULES = {
    "run": "lume_run.cli",
    "compare": "lume_run.cli",
    "report": "lume_run.report.comparison.main",
    "publish": "lume_run.report.publish",
    "repeat": "lume_run",
}
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")  # of the environment
TEXTS = ("Mara Oduya repairs church organs in Tallinn.", "The ferry stayed on the far bank until March.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What all cases share: a tiny model, and a run that has finished."""

    folder: Path

    @property
    def model(self) -> Path:
        """An untrained model with its tokenizer."""
        return self.folder / "model"

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return next(path.parent for path in sorted((self.folder / "outputs").glob("*/report.json")))

    def build(self, *, forked: bool = False) -> None:
        """Make both; `forked`: the run in a process of the tests' server of warm processes."""
        from lume_run.config.model_settings import ShapeSettings
        from lume_run.models.tiny import build_tiny

        shape = ShapeSettings(hidden_size=32, layers=2, heads=2, intermediate_size=64, vocabulary=400)
        build_tiny(shape, TEXTS * 5, seed=0, folder=self.model)
        overrides = ["debug=default", "logger=none", f"output_dir={self.folder / 'outputs'}"]
        if forked:
            warm.run(*overrides, env=environment({}), cwd=self.folder).check_returncode()
        else:
            command = [*PROGRAMS["run"], *overrides]
            subprocess.run(command, check=True, env=environment({}), cwd=self.folder, capture_output=True)

    def cases(self) -> Iterator[Case]:
        """All of them."""
        for module in KINDS:
            yield from self.cases_of(module)

    def cases_of(self, module: ModuleType) -> list[Case]:
        """The cases of one module, with what of the stage they need."""
        return list(module.cases(*(getattr(self, name) for name in KINDS[module])))

    def arguments(self, case: Case, folder: Path) -> list[str]:
        """The command's words, with the paths that stand for what is shared."""
        places = {"model": self.model, "run": self.run, "outputs": self.run.parent, "here": folder}
        words = list(case.arguments)
        for name, path in places.items():
            words = [word.replace(f"{{{name}}}", str(path)) for word in words]
        return words


def environment(more: dict[str, str]) -> dict[str, str]:
    """A plain environment and what a case adds."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def run_case(
    case: Case, stage: Stage, folder: Path, *, forked: bool = False, patience: float = HANG_SECONDS
) -> Outcome:
    """Run a command in a folder of its own, killed when it has not ended after `patience` [s].

    `forked`: by the tests' server of warm processes, where a case does not ask for surroundings of its own; the seconds are
    then those after the imports.
    """
    folder.mkdir()
    if case.prepare is not None:
        case.prepare(folder)
    arguments = stage.arguments(case, folder)
    with (folder.parent / f"{folder.name}.log").open("w+b") as log:
        if forked and not case.shell:
            code, seconds = run_forked(case, arguments, folder, log, patience)
        else:
            code, seconds = run_anew(case, arguments, folder, log, patience)
        log.seek(0)
        output = log.read(OUTPUT_BYTES).decode("utf-8", "replace")
    ran = any(folder.rglob(MARK)) or any(stage.folder.glob(MARK))
    return Outcome(code=code, output=output, seconds=seconds, foreign_code=ran)


def run_forked(
    case: Case, arguments: list[str], folder: Path, log: IO[bytes], patience: float
) -> tuple[int | None, float]:
    """(exit code, None where it was killed; seconds of processor time) of a warm process."""
    module, variables = MODULES[case.program], environment(dict(case.environment))
    arguments = [*("-m", "hydra/sweeper=compare"), *arguments] if case.program == "compare" else arguments
    process = warm.start(*arguments, module=module, cwd=folder, log=log, env=variables)
    try:
        return process.wait(patience), process.seconds
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, patience


def run_anew(
    case: Case, arguments: list[str], folder: Path, log: IO[bytes], patience: float
) -> tuple[int | None, float]:
    """(exit code, None where it was killed; seconds of processor time, with its children) of the real command."""
    command = [*PROGRAMS[case.program], *arguments]
    process = subprocess.Popen(
        ["/bin/bash", "-c", case.shell, "bash", *command] if case.shell else command,
        cwd=folder,
        env=environment(dict(case.environment)),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    hung = threading.Event()

    def end() -> None:
        hung.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(patience, end)
    timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    timer.cancel()
    return None if hung.is_set() else process.returncode, usage.ru_utime + usage.ru_stime
