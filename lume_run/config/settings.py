"""What a run is configured by: plain frozen dataclasses, no Hydra and no torch.

`build.py` checks a composed config against these types and bounds (`fields.py`), and builds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from lume_run.common.errors import Problem
from lume_run.common.records import TaskData
from lume_run.config.fields import setting
from lume_run.config.model_settings import ModelSettings

Stage = Literal["train", "unlearn", "evaluate", "score"]


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How one training stage optimises."""

    learning_rate: float = setting(low=0, open_low=True, high=1, help="peak learning rate")
    epochs: float = setting(low=0, open_low=True, high=10**5, help="passes over the forget rows (train: over all rows)")
    batch_size: int = setting(low=1, help="forget rows in one optimizer step, on all devices together")
    micro_batch_tokens: Literal["auto"] | int = setting(
        "auto", low=1, help="tokens in one forward on one device; auto: what its memory holds by the estimate"
    )
    micro_batch_size: int | None = setting(None, low=1, help="rows in one forward on one device, at most; null: any")
    optimizer: Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "adafactor",
        "sgd",
        "adamw_bnb_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
    ] = setting("adamw_torch_fused", help="a transformers optimizer name; bnb and paged ones need bitsandbytes")
    weight_decay: float = setting(low=0, high=100, help="AdamW weight decay")
    beta2: float = setting(0.999, low=0, high=0.999999, help="AdamW second-moment decay")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = setting("linear", help="learning rate")
    warmup: float = setting(low=0, high=1, help="share of the steps that warm up")
    warmup_steps: int | None = setting(None, low=0, help="steps that warm up, instead of a share; null: the share")
    max_tokens: int | None = setting(None, low=8, help="longer rows are cut [tokens]; null: the model's longest row")
    max_grad_norm: float = setting(1.0, low=0, help="gradient clipping; 0 for none")
    retain_ratio: int = setting(1, low=1, help="unlearn: retain examples for each forget example")
    retain_partners: Literal["cycled", "by_index"] = setting(
        "cycled",
        help="unlearn: retain examples in turn, or for each forget example always the one that closer-look draws",
    )
    chunk_size: int | None = setting(None, low=1, help="unlearn: all epochs over so many forget rows, then the next")
    alternate: bool = setting(False, help="unlearn: forget and retain examples in steps of their own, in turn")
    sharpness: float | None = setting(
        None,
        low=0,
        open_low=True,
        help="unlearn: radius rho around the weights in which the forget loss is taken at its worst (SAM); null: none",
    )
    stop_accuracy: float | None = setting(
        None, low=0, high=1, help="train: stop after an epoch that predicted this share of answer tokens"
    )


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The two training stages and their checkpoints."""

    train: OptimizationSettings = setting(help="fine-tuning until the documents are memorised")
    unlearn: OptimizationSettings = setting(help="unlearning")
    checkpoint_every: int = setting(200, low=1, help="optimizer steps between checkpoints")
    keep_checkpoints: int = setting(
        2, low=1, help="newest whole checkpoints to keep while training; one more needs room"
    )


@dataclass(frozen=True, kw_only=True)
class MmluSettings:
    """Where MMLU comes from. Without a source the aggregate is null, and says so."""

    data_dir: str | None = setting(None, help="folder with dev/*_dev.csv and test/*_test.csv")
    hub_id: str | None = setting(None, help="dataset id with all subjects, such as cais/mmlu")
    limit: int | None = setting(None, low=1, help="first N questions of each subject; null: all 14,042")
    accuracy: float | None = setting(None, low=0, high=1, help="stage score: MMLU accuracy measured elsewhere")
    shots: int = setting(5, low=0, high=5, help="worked examples before each question")


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """What is measured."""

    max_new_tokens: int = setting(256, low=1, high=10**6, help="longest generated answer [tokens]")
    max_total_tokens: int | None = setting(None, low=8, help="longest prompt and generated answer together [tokens]")
    batch_tokens: int = setting(
        8192,
        low=64,
        help="tokens in one evaluation batch: of packed rows that are scored, what they share once; else (prompts that "
        "are continued, families that are padded) each row as long as the longest; generated ones are not counted",
    )
    membership: bool = setting(True, help="membership inference on members against non-members")
    retrained: bool = setting(False, help="also train and score a model that never saw the forget set")
    retrained_responses: str | None = setting(None, help="responses.jsonl of such a model, instead of training one")
    retrained_model: str | None = setting(None, help="id or folder of such a model, instead of training one")
    strict: bool = setting(False, help="also score as the official script does, CSV quirks included")
    temperature: float = setting(1.0, low=0, open_low=True, high=100, help="of sampled answers")
    backend: Literal["transformers", "vllm"] = setting(
        "transformers", help="what generates texts; transformers computes log-probs, choices and gradients in any case"
    )
    placement: Literal["auto", "replicas", "spread"] = setting(
        "auto",
        help="replicas: the whole model in every process; spread: its layers over all GPUs here, then host memory, "
        "then disk; auto: replicas where weights and cache fit one device",
    )
    resamples: int = setting(1000, low=0, high=10**6, help="bootstrap resamples behind every 95 % interval; 0: none")
    documents: Literal["all", "tuning", "reported"] = setting(
        "all", help="which documents are asked about: all, or one of two parts by a hash of their names"
    )
    mmlu: MmluSettings = setting(factory=MmluSettings, help="MMLU, see Mmlu")
    suites: dict[str, Any] = setting(factory=dict, help="the suites it is made of, by name; none: LUME's")

    def __post_init__(self) -> None:
        ways = {name: getattr(self, name) for name in ("retrained", "retrained_responses", "retrained_model")}
        if len(named := [name for name, value in ways.items() if value]) > 1:
            raise ValueError(f"{' and '.join(named)} each say where the retrained model's answers come from: give one")


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """Whether the forget set is asked for at once, or in requests one after another."""

    requests: Literal["auto"] | int | None = setting(
        None,
        low=2,
        help="requests that the documents of the forget set are cut into, in order; auto: those of the task where it "
        "has some (a list of files), else 4; null: one for all",
    )
    reference: Literal["previous", "first"] = setting(
        "previous", help="the frozen model of losses that have one: the model before the request, or the target"
    )
    growing: bool = setting(False, help="each request is all documents so far, from the target; else its own, in turn")
    apart: bool = setting(False, help="each request is its own documents, from the target, asked about them alone")

    @property
    def keeps_first(self) -> bool:
        """Whether the frozen model is another than the one that a request starts from."""
        return self.requests is not None and self.reference == "first"


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """What is tried to bring the forgotten back, between unlearning and evaluation."""

    control: Literal["auto", "base", "none"] = setting(
        "auto",
        help="what is attacked alike: auto: a model retrained without the forget set where it is given or can be "
        "trained, else base: the model from before the documents; none: nothing",
    )
    target: str | None = setting(
        None, help="id or folder of the model before unlearning, to compare with where a model is evaluated alone"
    )
    attacks: dict[str, Any] = setting(factory=dict, help="the attacks, by name; none: models are evaluated as they are")


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """On how many devices stages run, and what each of them holds."""

    name: Literal["auto", "single", "ddp", "zero1", "zero2", "zero3", "zero3_offload"] = setting(
        "auto", help="what devices share: nothing (ddp), optimizer states (zero1), gradients (zero2), weights (zero3)"
    )
    processes: int | None = setting(None, low=1, high=1024, help="on each node; null: one for each visible GPU")
    nodes: int | None = setting(
        None, low=1, high=10**4, help="nodes; null: in the script of sbatch all nodes of its allocation, one elsewhere"
    )
    port: int | None = setting(None, low=1024, high=65535, help="where processes meet; null: a free one")
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", help="auto: a GPU if there is one; CUDA_VISIBLE_DEVICES says which"
    )


@dataclass(frozen=True, kw_only=True)
class LoggerSettings:
    """Where a run is shown while it runs and afterwards, beside its own folder."""

    name: Literal["wandb", "tensorboard", "none"] = setting("wandb", help="the service that shows runs")
    mode: Literal["auto", "online", "offline", "disabled"] = setting(
        "auto", help="of W&B; auto: online where a key is configured, else offline files; WANDB_MODE wins"
    )
    project: str = setting("lume-run", help="W&B project")
    entity: str | None = setting(None, help="W&B user or team; null: the one of the key")
    group: str | None = setting(None, help="W&B group; null: one for all jobs of a sweep")
    tags: list[str] = setting(factory=list, help="W&B tags beside method, task, model and launch mode")
    generations: int = setting(200, low=0, high=10**6, help="rows of the table of prompts and answers; 0: no table")
    patience: float = setting(60.0, low=5, high=86_400, help="longest wait for W&B at the end of a run [s]")


@runtime_checkable
class Checkable(Protocol):
    """A part of the config that says before anything runs what is wrong with it."""

    def check(self) -> list[Problem]:
        """Cheap checks: absent files, unknown names."""
        ...


class Task(Protocol):
    """A benchmark: raw files or a generator to examples."""

    name: str

    def load(self, seed: int) -> TaskData:
        """All examples; raises DataError with every problem found."""
        ...

    def check(self) -> list[Problem]:
        """Cheap checks before anything runs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, checked and built. `task` and `method` are built from their `_target_` nodes."""

    seed: int = setting(0, low=0, high=2**32 - 1, help="seed of data, schedule, weights and adapters")
    stages: list[Stage] = setting(help="which stages to run, in order")
    dry_run: bool = setting(False, help="print the plan and stop")
    verify: bool = setting(False, help="read all stored files again before they are used; what is damaged is made anew")
    output_dir: str = setting("outputs", help="runs and the shared store go here")
    responses: str | None = setting(None, help="stage score: responses.jsonl, or a folder of official CSVs")
    objective: str | list[str] = setting(
        "task_aggregate", help="score or scores of the unlearned model that a search is about, as in report.json"
    )
    allow_external: list[str] = setting(factory=list, help="module prefixes besides lume_run that _target_ may name")
    task: Any = setting(help="task group")
    model: ModelSettings = setting(help="model group")
    method: Any = setting(help="method group")
    mix: float | None = setting(None, low=0, high=1, help="share of the way to the unlearned weights; null: all of it")
    sequence: SequenceSettings = setting(factory=SequenceSettings, help="sequence group")
    attack: AttackSettings = setting(factory=AttackSettings, help="attack group")
    evaluator: EvaluatorSettings = setting(help="evaluator group")
    trainer: TrainerSettings = setting(help="trainer group")
    launch: LaunchSettings = setting(help="launch group")
    logger: LoggerSettings = setting(factory=LoggerSettings, help="logger group")

    @property
    def store(self) -> Path:
        """The content-addressed store shared by all runs under `output_dir`."""
        return Path(self.output_dir) / "store"
