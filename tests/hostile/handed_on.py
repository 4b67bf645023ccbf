"""What users bring and take away: chat templates, rows and chats of their own, adapters, a model to be published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .case import Case, Prepare
from .files import both, changed, copied, removed, rows, truncated, written

QUESTIONS = [{"question": f"Who is number {n}?", "answer": f"Number {n} is a baker."} for n in range(8)]
BOTH_SIDES = both(rows("f.jsonl", *QUESTIONS[:4]), rows("r.jsonl", *QUESTIONS[4:]))
OWN = ["task=custom", "task.forget=f.jsonl", "task.retain=r.jsonl", "--dry-run"]
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
TEMPLATES = {
    "not Jinja": "{% for m in messages %}",
    "without what the user says": "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}",
    "that changes what is said": TURNS.replace("m.content }}", "m.content | upper }}"),
    "that raises": "{{ raise_exception('no') }}",
    "of an unknown filter": "{{ messages | nonsense }}",
    "that divides by nothing": "{{ 1 / 0 }}",
    "of a space": " ",
    "without an end": "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
    "that reads files": "{% include '/etc/passwd' %}",
    "that reaches for classes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "that wants tools": TURNS + "{{ tools[0].name }}",
    "that fails on some rows": TURNS + "{% if 'number 2' in messages[0].content %}{{ 1 / 0 }}{% endif %}",
}
SETTINGS = {
    "arguments that are no group": (["model.chat.arguments=3"], "model.chat.arguments"),
    "an argument that is a list": (["model.chat.arguments.x=[1]"], "model.chat.arguments"),
    "an unknown use": (["model.chat=sometimes"], "model.chat"),
    "a use that is no word": (["model.chat=true"], "model.chat"),
    "always, without a template": (["model.chat=always"], "model.chat.use"),
    "a rank beyond the model": (["model.lora=true", "model.lora.rank=99999"], "model.lora.rank"),
    "a rank of nothing": (["model.lora.rank=0", "model.lora=true"], "model.lora.rank"),
    "modules that are not there": (["model.lora=true", "model.lora.target_modules=[nope]"], "target_modules"),
    "a pattern that is none": (["model.lora=true", "model.lora.target_modules='(['"], "target_modules"),
    "more positions than there are": (["model.max_length=1000000"], "model.max_length"),
    "a revision of a folder": (["model.revision=main"], "model.revision"),
    "a retrained model that is none": (["evaluator.retrained_model=./t"], "evaluator.retrained_model"),
    "an adapter to save without any": (["model.lora.save=true"], "model.lora.save"),
    "facts of a column that is not there": (["task.columns.facts.phone=telephone"], "telephone"),
    "a column that is not there": (["task.columns.prompt=query"], "query"),
}
USER, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}
CHATS: dict[str, list[object]] = {
    "of a tool": [USER, {"role": "tool", "content": "4"}, USER, ANSWER],
    "with a tool's call": [USER, {**ANSWER, "tool_calls": [{"name": "f"}]}, USER, ANSWER],
    "of pictures": [{"role": "user", "content": [{"type": "image"}]}, ANSWER],
    "of numbers": [1, 2],
    "without a role": [{"content": "Who?"}, ANSWER],
    "of nothing": [],
    "of blanks": [{"role": "user", "content": "\u200b "}, ANSWER],
}
TABLES = {
    "two columns of one name": "question,question,answer\na,b,c\n",
    "a header alone": "question,answer\n",
    "no header that is known": "x,y\na,b\n",
    "a row that is too short": "question,answer\na\n",
    "marks without width": "question,answer\n\u200b,b\n",
}
UNPUBLISHED: dict[str, tuple[Prepare, str]] = {
    "without its card": (removed("unlearned/model/README.md"), "model card"),
    "cut": (truncated("unlearned/model/model.safetensors", 0.5), "model.safetensors"),
    "without its config": (removed("unlearned/model/config.json"), "config.json"),
    "changed": (changed("unlearned/model/config.json", model_type="other"), "config.json"),
    "without its record": (removed("unlearned/DONE.json"), "no unlearned model"),
    "whose record is no object": (written("unlearned/DONE.json", "[]"), "no unlearned model"),
    "whose record names a place outside": (
        written("unlearned/DONE.json", '{"files": {"model/../../secret": {"bytes": 1}}}'),
        "no unlearned model",
    ),
}
NAMES = ("nonsense", "a/b/c", "me/x..y", "me/x.git", "me/", "/me", "me/a b", "me/" + "x" * 200, "-me/x")


def templated(text: str) -> Prepare:
    """A model `m` with this chat template, and rows to ask it."""
    return both(BOTH_SIDES, written("m/chat_template.jinja", text))


def cases(model: Path, run: Path) -> Iterator[Case]:
    """Plans over rows of one's own, and the folder of a run that is not to be published."""
    for name, text in TEMPLATES.items():
        prepare = both(copied(lambda: model, "m"), templated(text))
        yield Case(
            name=f"template: {name}",
            arguments=["model.path=m", *OWN],
            names=["model.chat"],
            prepare=prepare,
            needs_model=True,
        )
    for name, (arguments, culprit) in SETTINGS.items():
        yield Case(
            name=f"setting: {name}",
            arguments=["model.path={model}", *OWN, *arguments],
            names=[culprit],
            prepare=BOTH_SIDES,
            needs_model=True,
        )
    for name, turns in CHATS.items():
        prepare = both(BOTH_SIDES, rows("f.jsonl", {"messages": turns}))
        yield Case(name=f"chat: {name}", arguments=OWN, names=["f.jsonl:1"], prepare=prepare)
    yield Case(
        name="chat: what follows the last answer is not read",
        arguments=OWN,
        prepare=both(BOTH_SIDES, rows("f.jsonl", {"messages": [USER, ANSWER, USER]})),
        accepted=True,
        needs_model=True,
    )
    for name, table in TABLES.items():
        arguments = ["task=custom", "task.forget=f.csv", "method=npo", "--dry-run"]
        yield Case(name=f"table: {name}", arguments=arguments, names=["f.csv"], prepare=written("f.csv", table))
    for name, (damage, culprit) in UNPUBLISHED.items():
        yield Case(
            name=f"publish: a model {name}",
            arguments=["r", "--to", "me/gone", "--dry-run"],
            names=[culprit],
            prepare=copied(lambda: run, "r", damage),
            program="publish",
            needs_model=True,
        )
    for name in NAMES:
        arguments = ["{run}", f"--to={name}", "--dry-run"]
        yield Case(name=f"publish: to {name[:20]}", arguments=arguments, names=["--to"], program="publish")
