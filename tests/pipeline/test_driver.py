"""Whole runs in this process, one target for all: baselines, diverging, reaching a bound, choosing weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.shared import shape
from helpers.training import Snapshots
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from lume_run.common.errors import ConfigError, RunError
from lume_run.common.files import content_hash
from lume_run.common.jsonl import read_jsonl, to_json
from lume_run.common.records import Ask, Chat, Example, Kind, Response, Split
from lume_run.common.seeds import pick
from lume_run.config.overrides import compose, conf_dir
from lume_run.config.resolve import run_identity
from lume_run.config.settings import Settings
from lume_run.methods.base import Losses, Signals
from lume_run.methods.baselines import Context, context_of
from lume_run.methods.likelihood import FineTune, GradientAscent, mean_nll
from lume_run.methods.needs import Needs, Role
from lume_run.methods.objective import Objective
from lume_run.methods.refusals import REFUSALS
from lume_run.pipeline import train
from lume_run.pipeline.checks.config import require_settings
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.run import Run
from lume_run.training import build, optimise

pytestmark = pytest.mark.slow

SMALL = (
    "task.num_documents=1",
    *shape(96, 4, 288),
    "trainer.unlearn.epochs=6",  # of one step each
    "trainer.unlearn.batch_size=6",
    "evaluator.max_new_tokens=48",
)
LORA = "model.lora=true"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished run."""

    folder: Path
    settings: Settings

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @property
    def report(self) -> dict[str, Any]:
        return self.read("report.json")

    def artifact(self, name: str) -> Path:
        """Where an artifact is."""
        return Path(self.read("manifest.json")["artifacts"][name])

    def weights(self, name: str) -> dict[str, Tensor]:
        return load_file(self.artifact(name) / "model.safetensors")

    def scores(self, subject: str) -> dict[str, float | None]:
        scores = self.report["scores"].items()
        return {name.split(".", 1)[1]: value for name, value in scores if name.startswith(f"{subject}.")}

    def responses(self, subject: str) -> list[Response]:
        return read_jsonl(self.folder / f"responses.{subject}.jsonl", Response)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """The store's folder: the first run trains the target, the others find it."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def run(shelf, tmp_path) -> Callable[..., Done]:
    """Launch with overrides, and a method that no YAML file names if one is given."""

    def launched(*overrides: str, method: Any = None, folder: str = "run") -> Done:
        settings, data = require_settings(compose([*SMALL, f"output_dir={shelf}", *overrides], [conf_dir()]))
        settings = settings if method is None else replace(settings, method=method)
        run_pipeline(settings, tmp_path / folder, identity=run_identity(data), command=["test"])
        return Done(folder=tmp_path / folder, settings=settings)

    return launched


def same(weights: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert weights.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in weights.items())


# ------------------------------------------------------------------------------------------------- baselines


def test_none_is_the_target_itself(run):
    done = run("method=none")
    target = done.scores("target")
    assert done.scores("unlearned") == target
    assert target["forget.bios.knowledge"] >= 0.8
    assert target["retain.bios.knowledge"] >= 0.8
    assert set(done.report["training"]) == {"target"}
    assert not (done.folder / "unlearned").exists()
    assert done.responses("unlearned") == done.responses("target")
    assert all(change == 0 for change in done.scores("change").values())


def test_retrain_never_saw_the_forget_set(run):
    done = run("method=retrain")
    data = Run(done.settings, done.folder).data
    inputs = json.loads((done.artifact("retrained") / "DONE.json").read_text(encoding="utf-8"))["made_from"]
    assert inputs["rows"] == content_hash([to_json(example) for example in data.retain])
    assert not same(done.weights("retrained"), done.weights("target"))
    assert done.scores("unlearned")["forget.bios.knowledge"] <= 0.2
    assert done.scores("unlearned")["retain.bios.knowledge"] >= 0.8
    beside = run("method=none", "evaluator.retrained=true", folder="beside")  # the same model under another name
    assert beside.scores("retrained") == done.scores("unlearned")
    assert beside.artifact("retrained") == done.artifact("retrained")


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_task_vector_is_subtracted_exactly(alpha, run):
    done = run("method=task_vector", f"method.alpha={alpha}")
    data = Run(done.settings, done.folder).data
    inputs = json.loads((done.artifact("reinforced") / "DONE.json").read_text(encoding="utf-8"))["made_from"]
    assert inputs["rows"] == content_hash([to_json(example) for example in data.forget])
    target, reinforced, unlearned = (done.weights(name) for name in ("target", "reinforced", "unlearned"))
    assert not same(reinforced, target)
    assert same(unlearned, {name: value - alpha * (reinforced[name] - value) for name, value in target.items()})
    assert done.scores("unlearned").keys() == done.scores("target").keys()
    assert set(done.report["training"]) == {"target", "reinforced"}


def test_a_context_names_the_document_of_each_prompt():
    given = {"id": "a", "raw_id": "a", "document": "Ann Lee", "split": Split.FORGET, "subtask": "", "prompt": "Who?"}
    example = Example(kind=Kind.QUESTION, answer="A.", **given)
    context = Context(instruction="Nobody knows {document}.", shots=())
    assert context.before(example).prompt == "Nobody knows Ann Lee.\nWho?"
    assert context.before(replace(example, chat=Chat())).prompt == "Nobody knows Ann Lee.\nWho?"


def test_a_reinforced_model_changes_what_the_target_answers_and_not_the_target(run):
    done = run("method=whp", "method.alpha=50")
    before, after = done.responses("target"), done.responses("unlearned")
    assert {response.ask for response in before} == {Ask.GENERATE, Ask.LOGPROB}
    changed = [asked.ask for asked, again in zip(before, after, strict=True) if asked != again]
    assert changed.count(Ask.LOGPROB) == sum(response.ask is Ask.LOGPROB for response in before)
    assert Ask.GENERATE in changed
    assert not (done.folder / "unlearned").exists()
    assert {"target", "reinforced"} <= set(done.read("manifest.json")["artifacts"])
    same = run("method=whp", "method.alpha=0")  # the same reinforced model, which lowers nothing
    for asked, again in zip(same.responses("target"), same.responses("unlearned"), strict=True):
        assert again.output == asked.output
        assert again.logps == pytest.approx(asked.logps, abs=1e-4)


def test_in_context_unlearning_asks_behind_a_context(run):
    done = run("method=icu")
    data, method = Run(done.settings, done.folder).data, done.settings.method
    context = context_of(method, data, REFUSALS, 0).text
    assert context == context_of(method, data, REFUSALS, 0).text
    assert len({context_of(method, data, REFUSALS, seed).text for seed in range(4)}) > 1
    first, *shown, end = context.split("\n")
    assert (first, end) == (method.instruction, "")
    assert len(shown) == 4
    for line, examples in ((0, data.forget), (1, data.forget), (2, data.retain), (3, data.retain)):
        (example,) = [example for example in examples if shown[line].startswith(example.prompt)]
        answer = pick(example.id, 0, REFUSALS) if line < 2 else example.answer
        assert shown[line].removeprefix(example.prompt).strip() == answer.strip()
    before, after = done.responses("target"), done.responses("unlearned")
    for plain, behind in zip(before, after, strict=True):
        assert plain.ask is behind.ask
        if plain.ask is Ask.GENERATE:
            assert behind.prompt == context + plain.prompt
        else:
            assert behind == plain  # membership inference has no prompt to put anything before
    assert {response.ask for response in before} == {Ask.GENERATE, Ask.LOGPROB}
    assert [plain.output for plain in before] != [behind.output for behind in after]
    assert done.scores("unlearned")["mia.auc"] == done.scores("target")["mia.auc"]
    assert not (done.folder / "unlearned").exists()


def test_ties_merges_what_peft_merges(run):
    done = run("method=ties", LORA)
    merge = done.settings.method
    base = {name: AutoModelForCausalLM.from_pretrained(done.artifact("target")) for name in ("merged", "one", "two")}
    folders = [str(done.artifact(f"adapter {number}") / "adapter") for number in (1, 2)]
    model = PeftModel.from_pretrained(base["merged"], folders[0], adapter_name="first")
    model.load_adapter(folders[1], adapter_name="second")
    model.add_weighted_adapter(
        ["first", "second"], [1.0, 1.0], adapter_name="both", combination_type="ties", density=0.8
    )
    model.set_adapter("both")
    weights, expected = done.weights("unlearned"), model.merge_and_unload().state_dict()
    assert (merge.combination, merge.density, merge.weights) == ("ties", 0.8, (1.0, 1.0))
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)
    alone = [
        PeftModel.from_pretrained(base[name], folder).merge_and_unload().state_dict()
        for name, folder in zip(("one", "two"), folders, strict=True)
    ]
    for other in (done.weights("target"), *alone):
        assert not same(weights, other)
    assert not same(*alone)
    assert set(done.report["training"]) == {"target", "adapter 1", "adapter 2"}
    assert done.scores("unlearned").keys() == done.scores("target").keys()


def test_ties_needs_adapters(run):
    with pytest.raises(ConfigError, match=r"'ties' merges LoRA adapters\n.*model\.lora=true"):
        run("method=ties")


# ------------------------------------------------------------------------------------------------- divergence


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """Gradient ascent for `good` steps; then the loss is NaN, or (`steep`) its gradient alone is."""

    good: int
    steep: bool = False
    needs: ClassVar[Needs] = Needs(rows={Role.FORGET})

    def __call__(self, s: Signals) -> Tensor:
        loss = -mean_nll(s, Role.FORGET)
        if s.last.get("step", 0) < self.good:
            return loss
        return loss + (loss - loss.detach()).sqrt() if self.steep else loss * math.nan


@pytest.mark.parametrize(("steep", "lora"), [(False, False), (True, True)], ids=["loss, full", "gradient, lora"])
def test_a_diverged_run_is_measured_with_its_last_good_weights(steep, lora, run):
    adapters = [LORA] if lora else []
    done = run(*adapters, method=Objective(name="faulty", forget=Faulty(good=3, steep=steep)))
    outcome = json.loads((done.folder / "unlearned" / "outcome.json").read_text(encoding="utf-8"))
    reason = outcome["diverged"]
    assert reason.startswith("the gradient norm is " if steep else "the loss is nan at step 4 (rows: ")
    forget = [f"forget {example.id}" for example in Run(done.settings, done.folder).data.forget]
    assert " at step 4 (rows: " in reason
    assert sorted(reason.partition("(rows: ")[2].rstrip(")").split(", ")) == sorted(forget)
    assert (outcome["steps"], outcome["planned_steps"], outcome["stopped"]) == (3, 6, None)
    assert [entry["step"] for entry in json.loads((done.folder / "unlearned" / "history.json").read_text())] == [
        1,
        2,
        3,
    ]

    warning = f"unlearned DIVERGED: {reason}, after 3 of 6 steps"
    assert warning in done.report["warnings"]
    assert done.report["training"]["unlearned"] == outcome
    assert f"- {warning}" in (done.folder / "report.md").read_text(encoding="utf-8").split("\n")
    assert done.scores("unlearned").keys() == done.scores("target").keys()
    assert done.scores("unlearned")["forget.bios.knowledge"] is not None

    history = json.loads((done.folder / "unlearned" / "history.json").read_text(encoding="utf-8"))
    bound = f"method.stop_when.forget_loss={history[-1]['forget_loss']}"
    stopped = run("method=ga", bound, *adapters, folder="stopped")  # the same three steps
    assert stopped.report["training"]["unlearned"]["steps"] == 3
    assert same(done.weights("unlearned"), stopped.weights("unlearned"))
    assert not same(done.weights("unlearned"), done.weights("target"))
    model = AutoModelForCausalLM.from_pretrained(done.artifact("unlearned"))
    tokenizer = AutoTokenizer.from_pretrained(done.artifact("unlearned"))
    assert torch.isfinite(model(**tokenizer("Once upon", return_tensors="pt")).logits).all()

    written = (done.folder / "unlearned" / "DONE.json").stat().st_mtime_ns
    again = run(*adapters, method=Objective(name="faulty", forget=Faulty(good=3, steep=steep)))
    assert (again.folder / "unlearned" / "DONE.json").stat().st_mtime_ns == written  # as cached as any other
    assert warning in again.report["warnings"]


@dataclass(frozen=True, kw_only=True)
class FaultyFineTune(FineTune):
    """Loses its numbers at the third step."""

    def __call__(self, s: Signals) -> Losses:
        losses = super().__call__(s)
        return replace(losses, total=losses.total * math.nan) if s.last.get("step", 0) == 2 else losses


def test_fine_tuning_that_diverges_leaves_no_target(run, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "FineTune", FaultyFineTune)
    apart = f"output_dir={tmp_path / 'apart'}"
    with pytest.raises(RunError, match=r"Method 'finetune' diverged: the loss is nan at step 3 \(rows: retain "):
        run("method=ga", apart)
    assert not list((tmp_path / "apart" / "store" / "target").glob("*/DONE.json"))
    assert not list((tmp_path / "apart" / "store" / "target").glob("*/model.safetensors"))
    assert not (tmp_path / "run" / "unlearned").exists()
    assert not (tmp_path / "run" / "report.json").exists()


class Spoil(TrainerCallback):
    """Makes every weight infinite after one of the steps, as an optimizer may."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step == self.step:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.fill_(math.inf)


def spoilt(monkeypatch: pytest.MonkeyPatch, step: int) -> Snapshots:
    """Unlearning loses its weights at a step; what they were after every step.

    What is evaluated is stored by what was configured, so each such run has a `forget_weight` of its own.
    """
    seen, original = Snapshots(), build.callbacks_of

    def callbacks(training: Any, *others: Any) -> list[Any]:
        added = [] if isinstance(training.method, FineTune) else [seen, Spoil(step)]
        return original(training, *others) + added

    monkeypatch.setattr(build, "callbacks_of", callbacks)
    return seen


def test_infinite_weights_are_replaced_by_the_last_checkpoint(run, monkeypatch):
    """Checkpoints of steps 2 and 4; the weights are gone after step 5, which the loss of step 6 shows."""
    seen = spoilt(monkeypatch, 5)
    done = run("method=gd", "method.forget_weight=0.91", "trainer.checkpoint_every=2")
    assert done.report["training"]["unlearned"]["diverged"].startswith("the loss is nan at step 6 ")
    assert same(done.weights("unlearned"), seen.weights[3])
    assert done.scores("unlearned").keys() == done.scores("target").keys()


def test_infinite_adapters_are_replaced_by_those_of_the_last_checkpoint(run, monkeypatch):
    seen = spoilt(monkeypatch, 5)
    done = run("method=gd", "method.forget_weight=0.92", "trainer.checkpoint_every=2", LORA)
    assert done.report["training"]["unlearned"]["diverged"].startswith("the loss is nan at step 6 ")
    names = [name for name in seen.weights[3] if name.endswith("q_proj.lora_A.default.weight")]
    assert len(names) == 2
    target, weights = done.weights("target"), done.weights("unlearned")
    for name in names:
        low, high = (seen.weights[3][name.replace("lora_A", part)] for part in ("lora_A", "lora_B"))
        weight = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
        torch.testing.assert_close(weights[weight], target[weight] + 32 / 8 * high @ low, rtol=1e-5, atol=1e-6)
        assert not torch.equal(weights[weight], target[weight])


@pytest.mark.parametrize("adapters", [[], [LORA]], ids=["full", "lora"])
def test_without_a_checkpoint_the_target_stands_in(adapters, run, monkeypatch):
    spoilt(monkeypatch, 2)
    done = run("method=gd", "method.forget_weight=0.93", *adapters)
    assert done.report["training"]["unlearned"]["diverged"].startswith("the loss is nan at step 3 ")
    assert same(done.weights("unlearned"), done.weights("target"))
    assert done.scores("unlearned") == done.scores("target")


def test_weights_lost_in_the_last_step_are_told_of(run, monkeypatch):
    """No later loss shows it, but the model that is evaluated is not the one that was trained."""
    spoilt(monkeypatch, 6)
    done = run("method=gd", "method.forget_weight=0.94")
    assert same(done.weights("unlearned"), done.weights("target"))
    assert done.report["training"]["unlearned"]["diverged"] is not None
    assert any("unlearned DIVERGED" in warning for warning in done.report["warnings"])


@dataclass(frozen=True, kw_only=True)
class Huge(GradientAscent):
    """Gradient ascent whose second step is 10^16 times too long: the weights stay finite, the logits do not."""

    def __call__(self, s: Signals) -> Tensor:
        loss = super().__call__(s)
        return loss * 1e16 if s.last.get("step", 0) == 1 else loss


HUGE_STEPS = ("trainer.unlearn.optimizer=sgd", "trainer.unlearn.max_grad_norm=0", "trainer.unlearn.learning_rate=1")


def test_a_model_that_gives_no_numbers_is_reported_all_the_same(run):
    done = run(*HUGE_STEPS, method=Objective(name="huge", forget=Huge()))
    assert done.report["training"]["unlearned"]["diverged"].startswith("the loss is nan at step 3 ")
    assert done.scores("unlearned").keys() == done.scores("target").keys()


def test_killed_while_cleaning_up_nothing_is_trained_again(run, monkeypatch):
    """The model and its history are written; the checkpoints were being removed, and the folder not yet renamed."""
    done = run("method=gd", "method.forget_weight=0.95")
    before, partial = done.weights("unlearned"), done.folder / "unlearned.partial"
    (done.folder / "unlearned").rename(partial)
    (partial / "DONE.json").rename(partial / "MADE_FROM.json")
    (partial / "checkpoints" / "checkpoint-6").mkdir(parents=True)
    monkeypatch.setattr(optimise, "build_trainer", lambda *_: pytest.fail("trained again"))
    again = run("method=gd", "method.forget_weight=0.95")
    assert same(again.weights("unlearned"), before)
    assert again.report["training"] == done.report["training"]
    assert not (again.folder / "unlearned" / "checkpoints").exists()


def test_other_evaluators_and_attacks_unlearn_nothing_again(run, monkeypatch, capsys):
    done = run("method=gd", "method.forget_weight=0.9")
    monkeypatch.setattr(optimise, "build_trainer", lambda *_: pytest.fail("trained again"))
    capsys.readouterr()
    changed = ("evaluator=memorisation", "attack=quantise", "attack.control=none")
    again = run("method=gd", "method.forget_weight=0.9", *changed, folder="again")
    weights = again.folder / "unlearned" / "model" / "model.safetensors"
    assert weights.samefile(done.folder / "unlearned" / "model" / "model.safetensors")
    assert again.report["training"] == done.report["training"]
    assert again.report["attacks"]["rows"]
    printed = capsys.readouterr().err.split("\n")
    assert next(line for line in printed if line.startswith("unlearn unlearned")).rstrip().endswith("cached")


# ------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("name", ["forget_loss", "retain_nll"])
def test_a_bound_ends_unlearning_and_the_report_says_so(name, run):
    never = "method.stop_when.retain_nll=1000"  # gradient ascent alone would read no retain rows
    whole = run("method=ga", never, folder="whole")
    history = json.loads((whole.folder / "unlearned" / "history.json").read_text(encoding="utf-8"))
    outcome = whole.report["training"]["unlearned"]
    assert (outcome["steps"], outcome["stopped"], outcome["diverged"]) == (6, None, None)
    assert not [warning for warning in whole.report["warnings"] if warning.startswith("unlearned")]
    values = [entry[name] for entry in history]
    assert values == sorted(values, reverse=name == "forget_loss")

    bound = f"method.stop_when.{name}={values[3]}"
    done = run("method=ga", *([never] if name == "forget_loss" else []), bound)
    outcome = done.report["training"]["unlearned"]
    assert outcome == json.loads((done.folder / "unlearned" / "outcome.json").read_text(encoding="utf-8"))
    assert (outcome["steps"], outcome["planned_steps"], outcome["diverged"]) == (4, 6, None)
    words = {"forget_loss": "forget loss", "retain_nll": "retain NLL"}[name]
    assert outcome["stopped"] == (f"{words} {values[3]:.4g} reached method.stop_when.{name}={values[3]:g} at step 4")
    warning = f"unlearned STOPPED: {outcome['stopped']}, after 4 of 6 steps"
    assert warning in done.report["warnings"]
    assert f"- {warning}" in (done.folder / "report.md").read_text(encoding="utf-8").split("\n")
    assert json.loads((done.folder / "unlearned" / "history.json").read_text(encoding="utf-8")) == history[:4]
    assert not same(done.weights("unlearned"), whole.weights("unlearned"))


# --------------------------------------------------------------------------------------------- chosen weights


def test_only_chosen_weights_of_the_target_change(run):
    done = run("method=npo_gd", "model.trainable=['*.layers.1.mlp.*','lm_head.*']")
    target, weights = done.weights("target"), done.weights("unlearned")
    changed = {name for name, value in weights.items() if not torch.equal(value, target[name])}
    layer = "model.layers.1.mlp"
    assert changed == {"lm_head.weight", *(f"{layer}.{part}_proj.weight" for part in ("gate", "up", "down"))}


def test_a_pattern_without_a_weight_stops_the_run_before_anything_is_made(run, tmp_path):
    apart = tmp_path / "apart"
    with pytest.raises(ConfigError) as caught:
        run("method=npo_gd", "model.trainable=['*.mlp.*','*.mpl.*','nothing']", f"output_dir={apart}")
    assert [problem.where for problem in caught.value.problems] == ["model.trainable"] * 2
    assert [problem.what for problem in caught.value.problems] == [
        "no weight matches '*.mpl.*'",
        "no weight matches 'nothing'",
    ]
    assert "model.layers.*.mlp.down_proj.weight" in caught.value.problems[0].remedy
    assert not apart.exists()
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("method", ["npo_gd", "ties"])
def test_adapters_and_chosen_weights_exclude_each_other(method, run):
    with pytest.raises(ConfigError, match=r"model\.trainable: with adapters only adapters are trained"):
        run(f"method={method}", LORA, "model.trainable=['*.mlp.*']")


@pytest.mark.parametrize("method", ["none", "icu", "retrain", "task_vector", "whp"])
def test_what_trains_nothing_of_the_kind_refuses_chosen_weights(method, run):
    with pytest.raises(ConfigError, match=rf"model\.trainable: '{method}' cannot choose weights"):
        run(f"method={method}", "model.trainable=['*.mlp.*']")
