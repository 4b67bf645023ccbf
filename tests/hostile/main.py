"""Run every bad input whose name holds one of some words (none: all) on the real command, and count the verdicts.

python tests/hostile/main.py [--jobs 2] [--keep FOLDER] [WORDS ...]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from hostile import data, handed_on, keys, models, recipes, runs
from hostile.case import MARK, Case, Outcome, Verdict, judge

HANG_SECONDS = 60.0
BIN = Path(sys.executable).parent
PROGRAMS = {
    "run": [str(BIN / "lume-run")],
    "report": [str(BIN / "lume-run-report")],
    "publish": [str(BIN / "lume-run-publish")],
    "repeat": [sys.executable, "-m", "lume_run"],
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

    def build(self) -> None:
        """Make both."""
        from lume_run.config.model_settings import ShapeSettings
        from lume_run.models.tiny import build_tiny

        shape = ShapeSettings(hidden_size=32, layers=2, heads=2, intermediate_size=64, vocabulary=400)
        build_tiny(shape, TEXTS * 5, seed=0, folder=self.model)
        command = [*PROGRAMS["run"], "debug=default", "logger=none", f"output_dir={self.folder / 'outputs'}"]
        subprocess.run(command, check=True, env=environment({}), cwd=self.folder, capture_output=True)

    def cases(self) -> Iterator[Case]:
        """All of them."""
        yield from keys.cases()
        yield from recipes.cases()
        yield from models.cases(self.model)
        yield from data.cases()
        yield from runs.cases(self.run)
        yield from handed_on.cases(self.model, self.run)


def environment(more: dict[str, str]) -> dict[str, str]:
    """A plain environment and what a case adds."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}


def run_case(case: Case, stage: Stage, folder: Path) -> Outcome:
    """Run a command in a folder of its own, killed when it does not end."""
    folder.mkdir()
    if case.prepare is not None:
        case.prepare(folder)
    places = {"model": str(stage.model), "run": str(stage.run), "outputs": str(stage.run.parent), "here": str(folder)}
    arguments = list(case.arguments)
    for name, path in places.items():
        arguments = [argument.replace(f"{{{name}}}", path) for argument in arguments]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*PROGRAMS[case.program], *arguments],
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

        timer = threading.Timer(HANG_SECONDS, end)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        timer.cancel()
    output = Path(log.name).read_bytes()[:200_000].decode("utf-8", "replace")
    code = None if hung.is_set() else process.returncode
    ran = any(folder.rglob(MARK)) or any(stage.folder.glob(MARK))
    return Outcome(code=code, output=output, seconds=usage.ru_utime + usage.ru_stime, foreign_code=ran)


def chosen(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """Those whose name holds one of the words; all without words."""
    return [case for case in cases if not words or any(word in case.name for word in words)]


def main() -> int:
    """Print each fault with the end of its output, then the counts; 0 where there is no fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--keep", type=Path, help="a folder for all that the commands print and write")
    parser.add_argument("--all", action="store_true", help="print what is refused well too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        stage = Stage(folder=given.keep or Path(scratch))
        stage.folder.mkdir(exist_ok=True)
        if not stage.model.exists():
            stage.build()
        cases = chosen(list(stage.cases()), given.words)
        counts: Counter[Verdict] = Counter()
        place = Path(tempfile.mkdtemp(prefix="cases-", dir=stage.folder))
        with ThreadPoolExecutor(given.jobs) as pool:
            outcomes = pool.map(lambda at: run_case(cases[at], stage, place / str(at)), range(len(cases)))
            for case, outcome in zip(cases, outcomes, strict=True):
                verdict = judge(case, outcome)
                counts[verdict] += 1
                if given.all or verdict is not Verdict.REFUSED:
                    print(f"== {verdict}: {case.name}  (code {outcome.code}, {outcome.seconds:.1f} s)", flush=True)
                    print(
                        "\n".join(
                            f"     {line[:240]}"
                            for line in outcome.output.strip().splitlines()[
                                -(6 if verdict is not Verdict.ACCEPTED else 1) :
                            ]
                        ),
                        flush=True,
                    )
    print(
        f"{sum(counts.values())} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    )
    return int(any(verdict is not Verdict.REFUSED for verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
