"""Whole runs on a model with a chat template: it reaches training, questions, hints, keys of the store and the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.configs import settings_of
from helpers.shared import tokenizer_at

from lume_run.common.jsonl import read_jsonl
from lume_run.common.records import Ask, Response, Turn
from lume_run.methods.baselines import context_of
from lume_run.models.rows.tokenise import prompt_ids
from lume_run.pipeline.driver import run_pipeline
from lume_run.pipeline.dry_run import show_plan
from lume_run.pipeline.plan import plan
from lume_run.pipeline.run import Run

TEMPLATE = (Path(__file__).parents[1] / "models" / "chat_templates" / "qwen_2_5.jinja").read_text(encoding="utf-8")
NAMES = ["Orla Quist", "Bram Sefton", "Ilsa Wyck", "Odo Marr"]


@pytest.fixture(scope="module")
def chat_model(tiny, tmp_path_factory) -> Path:
    """The tiny model with ChatML: its tokens are spelled, since the model has no rows for more."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer, model = tokenizer_at(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for side, people in (("forget", NAMES[:2]), ("retain", NAMES[2:])):
        lines = [
            {"question": f"What is the phone number of {name}?", "answer": f"900-514-344{number}", "person": name}
            for number, name in enumerate(people)
        ]
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def settings_for(chat_model, rows, out, *overrides):
    return settings_of(
        "task=custom",
        *(f"task.{side}={rows / side}.jsonl" for side in ("forget", "retain")),
        "model=hf",
        f"model.path={chat_model}",
        "trainer=tiny",
        "trainer.train.epochs=1",
        "trainer.unlearn.epochs=1",
        "evaluator=[lume,pii]",
        "evaluator.max_new_tokens=8",
        "evaluator.resamples=0",
        "launch.device=cpu",
        "logger=none",
        f"output_dir={out}",
        *overrides,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("out")


def keys_of(settings, folder) -> list[str]:
    return [artifact.key for artifact in plan(Run(settings, folder)).artifacts]


def test_a_run_in_a_chat(chat_model, rows, out):
    settings = settings_for(chat_model, rows, out, "model.chat.system=Be brief.")
    run_pipeline(settings, out / "run", identity={}, command=["test"])
    responses = read_jsonl(out / "run" / "responses.unlearned.jsonl", Response)
    texts = [row for row in responses if row.ask is Ask.GENERATE]
    assert {row.prompt for row in texts} == {f"What is the phone number of {name}?" for name in NAMES}  # no hint in it
    assert {row.variant for row in texts} >= {"", "hint25", "hint50"}
    report = (out / "run" / "report.md").read_text(encoding="utf-8")
    assert "in the tokenizer's chat template, system prompt 'Be brief.'" in report
    saved = tokenizer_at(out / "run" / "unlearned" / "model")
    assert saved.chat_template == TEMPLATE


def test_what_the_chat_says_is_in_every_key(chat_model, rows, out):
    """The target was trained on it, and it was asked in it."""
    chats = ("model.chat=never", "model.chat.system=Be brief.", "model.chat.system=Be long.", "model.chat=auto")
    keys = [keys_of(settings_for(chat_model, rows, out, chat), out / "run") for chat in chats]
    for position in zip(*keys, strict=True):
        assert len(set(position)) == len(chats)


def test_in_context_unlearning_shows_its_examples_as_turns(chat_model, rows, out):
    """A shot is a question of the user and an answer of the assistant, as the model was taught to read them."""
    settings = settings_for(chat_model, rows, out, "method=icu", "model.is_target=true", "evaluator=lume")
    run_pipeline(settings, out / "icu", identity={}, command=["test"])
    run = Run(settings, out / "icu")
    context = context_of(settings.method, run.data, run.refusals, settings.seed)
    behind = context.before(next(question.example for question in run.questions if question.example.chat))
    turns = [*behind.chat.before, Turn("user", behind.prompt)]
    assert [turn.role for turn in turns if turn.role != "system"] == ["user", "assistant"] * len(context.shots) + [
        "user"
    ]
    users = [turn.text for turn in turns if turn.role == "user"]
    assert users[0] == f"{settings.method.instruction}\n{context.shots[0].prompt}"
    assert [turn.text for turn in turns if turn.role == "assistant"] == [shot.answer for shot in context.shots]
    tokenizer = tokenizer_at(chat_model)
    said = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(prompt_ids(behind, tokenizer)) == said
    (first, *_) = [row for row in read_jsonl(out / "icu" / "responses.unlearned.jsonl", Response) if row.output]
    assert "<|im_" not in first.prompt and settings.method.instruction not in first.prompt


def test_the_plan_shows_the_chat(chat_model, rows, out, capsys):
    show_plan(settings_for(chat_model, rows, out, "model.chat.system=Be brief."), out / "plan")
    said = "".join(capsys.readouterr())
    assert "format: the tokenizer's chat template, system prompt 'Be brief.'" in said
    assert "<|im_start|>system" in said and "<|im_end|> (" in said
    show_plan(settings_for(chat_model, rows, out, "model.chat=never"), out / "plan")
    said = "".join(capsys.readouterr())
    assert "format: plain text (model.chat.use=never)" in said and "<|im_start|>" not in said


def test_lumes_rows_never_do(chat_model, out, capsys):
    settings = settings_of("model=hf", f"model.path={chat_model}", "debug=default", f"output_dir={out}")
    show_plan(settings, out / "plan")
    assert "format: plain text (these rows are not asked of chat models)" in "".join(capsys.readouterr())
