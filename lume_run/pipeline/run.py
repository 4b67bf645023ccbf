"""One configured run: its settings, its folder, and what is read once from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lume_run.common.devices import DTYPE_BYTES, device_of, device_type_of, dtype_name_of
from lume_run.common.errors import ConfigError, Problem, RunError
from lume_run.common.records import Ask, Example, Question, TaskData
from lume_run.config.settings import Settings
from lume_run.evaluation.questions import deduplicate_questions, questions_of
from lume_run.launch.world import World
from lume_run.methods.baselines import WhosHarryPotter
from lume_run.methods.needs import Needs, Role
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import REFUSALS, read_refusals
from lume_run.models.hub import model_identity
from lume_run.models.layers import stream_fault
from lume_run.models.load import TINY_CONTEXT_TOKENS, config_of, context_limit
from lume_run.models.placement import Placement, placement_of
from lume_run.models.rows.chunks import token_chunks
from lume_run.models.rows.text_format import TextFormat, text_format_of
from lume_run.models.rows.tokenise import has_room
from lume_run.models.tokenizer import load_tokenizer
from lume_run.models.weights import ShapedConfig
from lume_run.tasks.documents import Room
from lume_run.tasks.requests import ForgetRequest, data_of_request
from lume_run.training.rows import examples_of, require_prompts, require_retain

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The config of a run's model, where it is from, and why it is not the model's own (empty: it is)."""

    config: Any  # of transformers, a ShapedConfig of `model.shape`, or None where neither is there
    origin: str
    failure: str = ""


@dataclass(frozen=True)
class Run:
    """One configured run and its folder; data are loaded once, when first needed.

    With a `request` it is that part of the run.
    """

    settings: Settings
    folder: Path
    world: World = World()
    request: ForgetRequest | None = None

    def of_request(self, request: ForgetRequest) -> Run:
        """This run as one of its requests sees it."""
        part = replace(self, request=request)
        part.__dict__.update({name: getattr(self, name) for name in ("_plain_data", "text_format", "tokenizer")})
        return part

    @cached_property
    def data(self) -> TaskData:
        """All examples of the task, or of the request."""
        data = self.text_format.data(self._plain_data)
        return data if self.request is None else data_of_request(data, self.request)

    @cached_property
    def _plain_data(self) -> TaskData:
        task, seed = self.settings.task, self.settings.seed
        loaded: TaskData = task.load(seed, self._room) if getattr(task, "cuts_texts", False) else task.load(seed)
        return loaded

    @property
    def _room(self) -> Room:
        """What the model takes of texts: rows of at most so many tokens, half of them the prompt.

        A model that is built here has its tokenizer afterwards, of one token a byte at most.
        """
        config = self.model_config.config
        limit = (
            self.settings.model.max_length or TINY_CONTEXT_TOKENS
            if config is None
            else context_limit(config, self.settings.model)
        )
        return Room(
            has_room=lambda piece: has_room(piece, self.tokenizer, limit),
            tokens=limit,
            cut=lambda text, tokens: token_chunks(text, self.tokenizer, tokens),
        )

    @cached_property
    def text_format(self) -> TextFormat:
        """The form in which rows are put to the model; ConfigError where the chat template cannot be used."""
        data = self._plain_data
        return text_format_of(self.settings.model, self.tokenizer, (*data.forget, *data.retain, *data.others))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the model that the run starts from; None where that is built here or out of reach."""
        model = self.settings.model
        try:
            return load_tokenizer(model.path, model) if model.path else None
        except RunError:
            return None

    @cached_property
    def device(self) -> torch.device:
        """Where stages run."""
        return device_of(self.settings.launch.device)

    @cached_property
    def device_type(self) -> str:
        """`cpu` or `cuda`, which plans and finished runs learn without torch."""
        return device_type_of(self.settings.launch.device)

    @cached_property
    def dtype_name(self) -> str:
        """The number format that models compute in: float32 or bfloat16."""
        return dtype_name_of(self.settings.model.dtype, self.device_type)

    @cached_property
    def questions_by_suite(self) -> dict[str, list[Question]]:
        """What each suite asks a model."""
        trained_here = not self.settings.model.is_target
        asked = questions_of(self.data, self.settings.evaluator, trained_here=trained_here)
        return {name: self.text_format.questions(questions) for name, questions in asked.items()}

    @cached_property
    def questions(self) -> list[Question]:
        """Every question once. ConfigError where the model's placement does not let it answer."""
        questions = deduplicate_questions(self.questions_by_suite)
        asks_gradients = any(question.ask is Ask.GRADIENT for question in questions)
        if asks_gradients and self.placement.offloads:
            from lume_run.evaluation.inference.logprobs import NO_GRADIENT

            raise ConfigError([Problem(where="evaluator.placement", what=f"{self.placement}", remedy=NO_GRADIENT)])
        if any(question.ask is Ask.PATCH for question in questions):
            self._require_patchable()
        if isinstance(self.settings.method, WhosHarryPotter):
            self._require_room_for_two("method=whp")
        if self.evaluates_quantised and asks_gradients:
            what = "quantised weights have no gradient, and a suite asks for its size"
            raise ConfigError(
                [Problem(where="model.quantize", what=what, remedy="evaluator.suites.mia.gradient=false")]
            )
        return questions

    def _require_room_for_two(self, who: str) -> None:
        """ConfigError where the layers of one model are spread, and two are held at once."""
        if self.placement.rooms is not None:
            what = f"{self.placement}, and {who} holds two models at once"
            remedy = f"evaluator.placement=replicas, or do without {who}"
            raise ConfigError([Problem(where="evaluator.placement", what=what, remedy=remedy)])

    def _require_patchable(self) -> None:
        """ConfigError where states of one model cannot be put into another."""
        self._require_room_for_two("evaluator=uds")
        if (config := self.model_config.config) is not None and (fault := stream_fault(config)):
            what = f"evaluator=uds puts the state of a token into another model, and {fault}"
            raise ConfigError([Problem(where="evaluator", what=what, remedy="an evaluator without uds")])

    @property
    def evaluates_quantised(self) -> bool:
        """Whether the model is scored in fewer bits: other stages than evaluation save models that are not."""
        return self.settings.stages == ["evaluate"] and self.settings.model.quantize != "none"

    @cached_property
    def placement(self) -> Placement:
        """How an evaluated model is placed on devices; by the shape of the one it starts from."""
        bytes_each = DTYPE_BYTES[self.dtype_name]
        return placement_of(self.settings.evaluator, self.model_config.config, self.device_type, bytes_each)

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What changes numbers besides the model: precision, attention, device, row length, another tokenizer."""
        model = self.settings.model
        tokenizer = model.tokenizer or model.base  # the base's where none is beside the model
        return {
            "dtype": self.dtype_name,
            "device": self.device_type,
            "attention": model.attention,
            "max_length": model.max_length,
            "tokenizer": model_identity(tokenizer, model) if tokenizer else None,
        }

    @cached_property
    def model_config(self) -> ModelConfig:
        """The model's own config; where that is unavailable, OLMo's with `model.shape`."""
        model = self.settings.model
        failure = ""
        if model.path is not None:
            try:
                config = config_of(model.path, model)
                return ModelConfig(config=config, origin="its config")
            except RunError as error:
                failure = str(error)
        config = ShapedConfig(shape=model.shape) if model.shape else None
        return ModelConfig(config=config, origin="from model.shape", failure=failure)

    @cached_property
    def refusals(self) -> tuple[str, ...]:
        """The sentences that IDK answers are picked from."""
        method = self.settings.method
        file = method.idk_file if isinstance(method, Objective) else None
        return read_refusals(Path(file)) if file else REFUSALS

    def examples(
        self, needs: Needs, alternates: Mapping[str, Sequence[str]] | None = None
    ) -> list[tuple[Role, Example]]:
        """The forget and retain examples in the roles a method reads; `alternates` are answers made up, by id."""
        data, seed, refusals = self.data, self.settings.seed, self.refusals
        require_prompts(self.settings.method.name, needs.rows, data.forget)
        if not self.settings.sequence.apart:
            require_retain(self.settings.method.name, needs.rows, data.retain)
        return examples_of(needs.rows, data.forget, data.retain, refusals=refusals, seed=seed, alternates=alternates)
