"""The models of the metrics study, each a run of lume-run: finished ones are in the store and are not made again.

Half of the pool learned the forget set, in three kinds of rows; the other half learned three kinds of rows without it.
Every kind is learned at five learning rates and for two numbers of epochs, each model from a seed of its own: as the
pool of open-unlearning's study (arXiv:2506.12618), which has 30 + 30 models of 1B parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline
from lume_run.report.write import Report
from lume_run.sweeps.job import begin_run_folder
from lume_run.sweeps.names import run_folder
from metric_quality.documents import IGNORANT, KNOWING

FOLDERS = [conf_dir(), Path(__file__).parent / "conf"]
COMMON = ("allow_external=[metric_quality]", "task=study", "logger=none", "evaluator.resamples=0")
SHAPE = {"hidden_size": 96, "layers": 3, "heads": 4, "intermediate_size": 384}
BASE = (
    *("stages=[train]", "task.learns=base", "task.num_documents=12", "trainer.train.epochs=20"),
    *(f"model.shape.{name}={value}" for name, value in SHAPE.items()),
)
RATES = (1.5e-3, 2e-3, 2.5e-3, 3e-3, 4e-3)
EPOCHS = (6, 12)
SUITES = "[lume,memorisation,closer_look,tofu,open_unlearning,muse,mia,pii,leak,logit_lens,uds]"
ASKED = (
    f"evaluator={SUITES}",
    "evaluator.max_new_tokens=64",
    "evaluator.suites.pii.sides=[forget]",
    "evaluator.suites.pii.samples=2",
    "evaluator.suites.leak.samples=4",
    "evaluator.suites.leak.max_new_tokens=64",
    "evaluator.suites.mia.gradient=true",
)
METHODS = ("gd", "npo_gd", "simnpo", "me_gd", "idk_ap", "undial", "rmu", "wga")
ATTACKS = (
    "attack=[relearn_epoch,quantise]",
    "attack.attacks.relearn_epoch.optimization.learning_rates=[1e-3]",
    "attack.attacks.relearn_epoch.optimization.batch_size=8",
    "attack.attacks.quantise.formats=[nf4]",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the pool: the kind of rows it learns, how fast, how long [epochs], and from which seed."""

    learns: str
    rate: float
    epochs: int
    seed: int

    @property
    def knows(self) -> bool:
        """Whether the forget set is among what it learned."""
        return self.learns in KNOWING

    @property
    def name(self) -> str:
        """What it is called in the file of numbers."""
        return f"{self.learns} lr={self.rate:g} epochs={self.epochs} seed={self.seed}"

    @property
    def training(self) -> list[str]:
        """The overrides of its training, from the base on."""
        rate = f"trainer.train.learning_rate={self.rate}"
        return ["stages=[train]", f"task.learns={self.learns}", rate, f"trainer.train.epochs={self.epochs}"]


def entries_of(rates: Sequence[float] = RATES, epochs: Sequence[int] = EPOCHS) -> list[Entry]:
    """The pool, models that know the forget set and models that do not in turn."""
    kinds = [kind for pair in zip(KNOWING, IGNORANT, strict=True) for kind in pair]
    settings = product(rates, epochs, kinds)
    return [Entry(learns=kind, rate=rate, epochs=count, seed=seed) for seed, (rate, count, kind) in enumerate(settings)]


def report_of(overrides: Sequence[str]) -> Report:
    """The report of a run; what of it is there already is not made again."""
    settings, data = require_settings(compose([*COMMON, *overrides], FOLDERS))
    folder = run_folder(data)
    begin_run_folder(folder, data)
    return run_pipeline(settings, folder, identity=run_identity(data), command=["metrics_study.py", *overrides])


def trained_model(overrides: Sequence[str]) -> str:
    """The folder of the model that a run trains."""
    artifacts: dict[str, Any] = report_of(overrides).manifest["artifacts"]
    return str(artifacts["target"])


@dataclass(frozen=True, kw_only=True)
class References:
    """Folders of the model that all begin as, of one that learned everything, and of one without the forget set."""

    base: str
    target: str
    retrained: str

    @classmethod
    def trained(cls) -> References:
        """Trained unless they are in the store."""
        base = trained_model(BASE)
        start = [f"model.path={base}", "seed=1000", "stages=[train]"]
        kinds = {name: trained_model([*start, f"task.learns={kind}"]) for name, kind in REFERENCE_KINDS.items()}
        return cls(base=base, **kinds)


REFERENCE_KINDS = {"target": "all", "retrained": "retain"}


def pool_scores(entry: Entry, references: References) -> dict[str, float]:
    """All scores of a model of the pool that have a value."""
    start = f"model.path={references.base}"
    path = trained_model([start, f"seed={entry.seed}", *entry.training])
    beside = [f"attack.target={references.target}", f"evaluator.retrained_model={references.retrained}"]
    report = report_of(["stages=[evaluate]", f"model.path={path}", *beside, *ASKED])
    return {name: score.value for name, score in report.scores["model"].items() if score.value is not None}


def attacked_report(method: str, seed: int, references: References) -> Report:
    """The report of an unlearned model under relearning and quantisation, with the retrained model as its control."""
    return report_of([f"model.path={references.base}", f"method={method}", f"seed={seed}", *ASKED, *ATTACKS])
