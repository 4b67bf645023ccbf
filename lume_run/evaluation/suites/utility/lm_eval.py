"""lm-evaluation-harness (Gao et al. 2023, doi:10.5281/zenodo.10256836): any of its tasks, on the model as it is loaded.

The harness builds the prompts, runs the model and makes the numbers, with its own seeds, prompt truncation and
standard errors; nothing of ours is in between. It is an extra (`pip install 'lume-run[lm-eval]'`), imported where it
is used. A task file under `include_path` may hold Python code that is then run: include what you trust.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import importlib.util
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lume_run.common.errors import Problem, RunError
from lume_run.common.records import Question, Score, TaskData
from lume_run.config.fields import setting
from lume_run.config.settings import EvaluatorSettings
from lume_run.evaluation.suites.base import Answers
from lume_run.evaluation.suites.utility.lm_eval_names import known_names

SETTINGS_KEY = "evaluator.suites.lm_eval"
INSTALL_LM_EVAL = "pip install 'lume-run[lm-eval]'"
NO_TASKS = f"give {SETTINGS_KEY}.tasks=[NAME,...]; lm-eval ls tasks lists them"
HARNESS_RESAMPLES = 1000  # of the harness's bootstrap, for metrics that have no formula for their standard error
STANDARD_ERRORS_95 = 1.96  # standard errors on either side hold 95 % of a normal distribution


@dataclass(frozen=True, kw_only=True)
class LmEval:
    """The scores of tasks and groups of tasks of the harness."""

    tasks: list[str] = setting(factory=list, help="task, group or tag names of the harness; none: nothing is measured")
    include_path: str | None = setting(None, help="folder of your own task YAML files; may hold code that is run")
    limit: int | None = setting(None, low=1, help="first N samples of each task; null: all")
    num_fewshot: int | None = setting(None, low=0, help="worked examples in each prompt; null: as each task says")
    batch_size: int = setting(8, low=1, help="requests in one forward")

    @property
    def active(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self.tasks)

    def identity(self) -> dict[str, Any]:
        """The harness's version and the contents of our own task files; not of data they fetch, nor of bytecode."""
        files = sorted(Path(self.include_path).rglob("*.*")) if self.include_path else []
        task_files = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
        digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in task_files}
        return {"lm_eval": importlib.metadata.version("lm_eval"), "files": digests}

    def check(self) -> list[Problem]:
        """Whether the harness is installed and knows every task; takes seconds once, to read all its task files."""
        if not self.tasks:
            return []
        if importlib.util.find_spec("lm_eval") is None:
            return [
                Problem(
                    where=f"{SETTINGS_KEY}.tasks", what="lm-evaluation-harness is not installed", remedy=INSTALL_LM_EVAL
                )
            ]
        if self.include_path and not Path(self.include_path).is_dir():
            what = f"{self.include_path} is not a folder"
            return [
                Problem(
                    where=f"{SETTINGS_KEY}.include_path", what=what, remedy="give the folder of your task YAML files"
                )
            ]
        known = known_names(self.include_path)
        return [unknown_task(number, task, known) for number, task in enumerate(self.tasks) if task not in known]

    def asks(self, data: TaskData, evaluator: EvaluatorSettings) -> list[Question]:
        """Nothing: the harness asks for itself."""
        return []

    def scores(self, answers: Answers) -> list[Score]:
        """Nothing but, without tasks, `lm_eval` with the reason: what is measured comes from `measure`."""
        return [] if self.tasks else [Score(name="lm_eval", value=None, n=0, reason=NO_TASKS)]

    def measure(self, model: Any, tokenizer: Any) -> list[Score]:
        """`lm_eval.<task or group>.<metric>`, see `scores_of`; RunError where the harness fails."""
        if not self.tasks:
            return []
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        try:
            with contextlib.redirect_stdout(sys.stderr), silence_loaded_model_warning():
                results = simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size),
                    tasks=self.tasks,
                    task_manager=manager_of(self.include_path),
                    num_fewshot=self.num_fewshot,
                    limit=self.limit,
                    batch_size=self.batch_size,
                    bootstrap_iters=HARNESS_RESAMPLES,
                    log_samples=False,
                )
        except Exception as error:
            reason = (str(error).strip().splitlines() or [repr(error)])[0]
            raise RunError(
                f"lm-evaluation-harness could not measure {', '.join(self.tasks)}: {type(error).__name__}: {reason}\n"
                "  - data that could not be fetched: most tasks read the hub; HF_HOME says where copies are\n"
                "  - a task named twice, also within a group: name it once\n"
                f"  - to try it alone: lm-eval run --model hf --model_args pretrained=FOLDER --tasks {self.tasks[0]}"
            ) from error
        return scores_of(results["results"])


@cache
def manager_of(include_path: str | None) -> Any:
    """The harness's index of tasks; kept, for it reads some 14,000 files."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def unknown_task(number: int, task: str, known: list[str]) -> Problem:
    """The problem with a name that the harness does not know."""
    close = difflib.get_close_matches(task, known, n=3)
    remedy = f"did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists the names"
    remedy += "; a task of your own needs include_path, and a YAML file that can be read"
    return Problem(where=f"{SETTINGS_KEY}.tasks[{number}]", what=f"the harness knows no '{task}'", remedy=remedy)


@contextlib.contextmanager
def silence_loaded_model_warning() -> Iterator[None]:
    """Silences the harness's remark that a loaded model is a loaded model; other warnings and progress stay."""
    logger = logging.getLogger("lm_eval.models.huggingface")

    def keep(record: logging.LogRecord) -> bool:
        return "`pretrained`" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def scores_of(results: Mapping[str, Mapping[str, Any]]) -> list[Score]:
    """The harness's table of results as scores, in its order.

    The harness names numbers `metric,filter`; the filter is left out where it is `none`, and else follows after a dot.
    `low` and `high` are 1.96 standard errors away (normal approximation, may pass the metric's bounds), where there
    is one.
    """
    return [
        score_of(task, key, value, entry)
        for task, entry in results.items()
        for key, value in entry.items()
        if "," in key and "_stderr," not in key
    ]


def score_of(task: str, key: str, value: Any, entry: Mapping[str, Any]) -> Score:
    """One number of one task; None with a reason where it is not a finite number."""
    metric, _, filtered = key.partition(",")
    name = f"lm_eval.{task}.{metric}" + ("" if filtered == "none" else f".{filtered}")
    n = int(entry.get("sample_count", {}).get(key, entry.get("sample_len", 0)))
    number = finite_float(value)
    if number is None:
        return Score(
            name=name, value=None, n=n, reason=f"the harness gave {str(value)[:40]}, which is no finite number"
        )
    error = finite_float(entry.get(f"{metric}_stderr,{filtered}"))
    if error is None:
        return Score(name=name, value=number, n=n)
    return Score(
        name=name, value=number, n=n, low=number - STANDARD_ERRORS_95 * error, high=number + STANDARD_ERRORS_95 * error
    )


def finite_float(value: Any) -> float | None:
    """A finite number as a float (NumPy's included), None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
