"""Run every bad input whose name holds one of some words (none: all) on the real command, and count the verdicts.

python tests/hostile/main.py [--jobs 2] [--forked] [--patience SECONDS] [--keep FOLDER] [WORDS ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from helpers import warm

from hostile.case import CPU_SECONDS, Case, Outcome, Verdict, judge
from hostile.stage import HANG_SECONDS, Stage, run_case

LINES_SHOWN = 6  # of what a command said last


def chosen(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """Those whose name holds one of the words; all without words."""
    return [case for case in cases if not words or any(word in case.name for word in words)]


def show(case: Case, outcome: Outcome, verdict: Verdict) -> None:
    """Print a verdict and the end of what the command said."""
    print(f"== {verdict}: {case.name}  (code {outcome.code}, {outcome.seconds:.1f} s)", flush=True)
    lines = outcome.output.strip().splitlines()[-LINES_SHOWN:]
    print("\n".join(f"     {line[:240]}" for line in lines), flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--keep", type=Path, help="a folder for all that the commands print and write")
    parser.add_argument("--all", action="store_true", help="print what is refused well too")
    parser.add_argument("--forked", action="store_true", help="in processes forked after the imports; no bound of time")
    parser.add_argument("--patience", type=float, default=HANG_SECONDS, help="seconds after which a command hangs")
    return parser.parse_args()


def main() -> int:
    """Print each fault with the end of its output, then the counts; 0 where there is no fault."""
    given = parse()
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        os.environ[warm.FOLDER_VARIABLE], os.environ[warm.SESSION_VARIABLE] = scratch, str(os.getpid())
        stage = Stage(folder=(given.keep or Path(scratch)).absolute())
        stage.folder.mkdir(exist_ok=True)
        if not stage.model.exists():
            stage.build()
        cases = chosen(list(stage.cases()), given.words)
        counts: Counter[Verdict] = Counter()
        place = Path(tempfile.mkdtemp(prefix="cases-", dir=stage.folder))
        with ThreadPoolExecutor(given.jobs) as pool:
            how = {"forked": given.forked, "patience": given.patience}
            outcomes = pool.map(lambda at: run_case(cases[at], stage, place / str(at), **how), range(len(cases)))
            for case, outcome in zip(cases, outcomes, strict=True):
                verdict = judge(case, outcome, bound=None if given.forked else CPU_SECONDS)
                counts[verdict] += 1
                if given.all or verdict is not Verdict.REFUSED:
                    show(case, outcome, verdict)
    shares = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"{counts.total()} cases: {shares}")
    return int(any(verdict is not Verdict.REFUSED for verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
