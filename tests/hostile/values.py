"""Values of every kind for settings of every group, and combinations that cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice

from .case import Case, Prepare
from .files import rows

NUMBERS = (  # one of each group, and of each kind
    "seed",
    "task.num_documents",
    "model.max_length",
    "model.shape.layers",
    "model.lora.rank",
    "method.retain_weight",
    "method.forget.beta",
    "trainer.unlearn.learning_rate",
    "trainer.unlearn.epochs",
    "trainer.train.beta2",
    "trainer.keep_checkpoints",
    "evaluator.max_new_tokens",
    "evaluator.resamples",
    "launch.port",
    "logger.patience",
)
NO_NUMBERS = {  # value -> what it is
    "[3]": "a list",
    "{a: 3}": "an object",
    "''": "an empty text",
    "'three'": "a word",
    "nan": "NaN",
    "inf": "infinity",
    "-1": "below nothing",
    "1e400": "beyond floats",
    "٣": "digits of another script",
    "3 4": "two numbers",
    "0x": "half a number",
    "true": "a truth",
    "${nothing.at.all}": "a place that is not there",
}
TEXTS = ("model.path", "task.source", "logger.project", "output_dir", "model.dtype", "trainer.unlearn.optimizer")
NO_TEXTS = {"[a]": "a list", "{a: b}": "an object", "''": "an empty text"}
LISTS = ("stages", "logger.tags", "model.trainable", "allow_external", "task.subtasks")
NO_LISTS = {
    "3": "a number",
    "{a: b}": "an object",
    "[[a]]": "lists in a list",
    "[null]": "nothing in a list",
    "[{a: 1}]": "objects in a list",
}
GROUPS = (
    "task",
    "model",
    "method",
    "trainer",
    "evaluator",
    "launch",
    "logger",
    "experiment",
    "debug",
    "method/forget",
    "method/retain",
)
NO_OPTIONS = {
    "''": "an empty name",
    "3": "a number",
    "[]": "an empty list",
    "{a: b}": "an object",
    "../x": "a place outside",
    "NPO ": "a name in capitals",
    "_base": "a private part",
}
WRITTEN = {  # a line of words -> what the refusal names
    "+seed=1": "seed",
    "++nothing.at.all=1": "nothing",
    "~method": "method",
    "~hydra": "hydra",
    "+method=npo": "method",
    "+hydra/launcher=joblib": "hydra/launcher",
    "method@nothing=npo": "nothing",
    "method=npo,": "method",
    "seed==1": "seed",
    "seed = 1": "seed",
    "SEED=1": "seed",
    "seed=1;method=npo": "seed",
    "--seed=1": "--seed",
    "-seed=1": "-s",
    "seed:1": "seed",
    "seed.x=1": "seed",
    "model.path.x=1": "model.path",
    ".seed=1": ".seed",
    "seed.=1": "seed.",
    "task..name=x": "task..name",
    "model.lora=[]": "model.lora",
    "model.lora={rank: 3, nothing: 1}": "nothing",
    "model.lora={rank: [3]}": "model.lora.rank",
    "trainer.unlearn=null": "trainer.unlearn",
    "trainer.unlearn=[]": "trainer.unlearn",
    "evaluator.mmlu=3": "evaluator.mmlu",
    "evaluator.suites={lume: 3}": "evaluator.suites",
    "evaluator.suites.lume=null": "evaluator.suites",
    "method.forget=npo": "method.forget",
    "method.forget=null": "method.forget",
    "method.retain={_target_: os.system}": "os.system",
    "method.forget._target_=lume_run.methods.npo.Nothing": "_target_",
    "model.name=${model.name}": "model.name",
    "model.name=${task}": "model.name",
    "model.name=a${nothing}b": "nothing",
    "model.name=${": "model.name",
    "model.name=${seed": "model.name",
    "model.name=${oc.create:[1]}": "oc.create",
    "model.name=${oc.decode:'1'}": "oc.decode",
    "model.name=${hydra:runtime.nothing}": "model.name",
    "model.name=con\u202etrol": "model.name",
    "model.name=.": "model.name",
    "model.name=" + "x" * 300: "model.name",
    "seed=-0": "",
    "seed=1_000": "",
    "trainer.unlearn.learning_rate=1E-4": "",
    "logger.tags=[]": "",
    "++seed=3": "",
}
FILE = "task=custom task.forget=f.jsonl"
TOGETHER = {  # words that cannot go together -> what the refusal names
    "method=npo method.retain_weight=3": "method.retain_weight",
    "method=ga trainer.unlearn.retain_ratio=4": "retain_ratio",
    f"{FILE} method=npo_gd": "task.retain",
    f"{FILE} method=rmu": "task.retain",
    f"{FILE} method=npo model.lora=true model.lora.target_modules=[wte]": "target_modules",
    "model.lora=true launch=zero3 launch.processes=2 method=task_vector": "",
    "launch=zero3 launch.processes=1 launch.device=cuda": "cuda",
    "launch=single launch.processes=2": "launch.processes",
    "evaluator.backend=vllm evaluator=closer_look": "vllm",
    "model.quantize=nf4 method=npo": "model.quantize",
    "model.quantize=nf4 model.dtype=float32 stages=[train]": "model.quantize",
    "stages=[score] model.path={model}": "responses",
    "stages=[evaluate] responses=r.jsonl": "responses",
    "responses=r.jsonl": "responses",
    "trainer.unlearn.alternate=true method=npo": "alternate",
    "trainer.unlearn.optimizer=paged_adamw_8bit": "optimizer",
    "trainer.unlearn.optimizer=adafactor launch=zero3 launch.processes=2": "",
    "model.dtype=bfloat16 model.path={model} stages=[evaluate] method=npo seed=1 verify=maybe": "verify",
    "task=tofu method=npo task.split=forget05 task.source=folder": "task",
    "task=bios task.data_dir=.": "task.data_dir",
    "task=bios task.num_documents=100000": "task.num_documents",
    "model=7b launch=single": "",
    "model.shape.hidden_size=100000 model.shape.heads=1000": "",
    "evaluator=mia task.num_documents=1": "",
    "method=rmu method.forget.layer=99": "layer",
    "method=icu stages=[train,unlearn] launch=zero3 launch.processes=2": "",
    "method=whp evaluator=uds": "uds",
    "method=whp attack=prune": "attack.attacks.prune",
    "method=whp mix=0.5": "mix",
    "method=idk_ap method.idk_file=i.txt": "method.idk_file",
    "evaluator.retrained_model={model} evaluator.retrained_responses=r.jsonl": "evaluator.retrained",
}


def paired(settings: Sequence[str], values: Mapping[str, str], each: int) -> Iterator[tuple[str, str, str]]:
    """(setting, value, what it is): so many values a setting, in turns, so that every value meets some setting."""
    turns = cycle(values.items())
    for setting in settings:
        yield from ((setting, value, what) for value, what in islice(turns, each))


def cases() -> Iterator[Case]:
    """All as plans."""
    for settings, values, each in ((NUMBERS, NO_NUMBERS, 4), (TEXTS, NO_TEXTS, 2), (LISTS, NO_LISTS, 3)):
        for setting, value, what in paired(settings, values, each):
            yield Case(
                name=f"value: {setting}: {what}",
                arguments=["--dry-run", f"{setting}={value}"],
                names=["nothing.at.all" if "nothing.at.all" in value else setting],
            )
    for group, value, what in paired(GROUPS, NO_OPTIONS, 3):
        yield Case(
            name=f"option: {group}: {what}",
            arguments=["--dry-run", f"{group}={value}"],
            names=[group.rpartition("/")[2]],
        )
    prepare: Prepare = rows(
        "f.jsonl", {"question": "Who?", "answer": "Ada."}, {"question": "Where?", "answer": "Here."}
    )
    for line, culprit in {**WRITTEN, **TOGETHER}.items():
        words = (
            [line]
            if (line in WRITTEN and " = " in line) or "\n" in line or ("{" in line and line in WRITTEN)
            else line.split(" ")
        )
        yield Case(
            name=f"words: {line!r}"[:120],
            arguments=["--dry-run", *words],
            names=[culprit] if culprit else [],
            prepare=prepare,
            accepted=not culprit,
            needs_model=not culprit or "{model}" in line or "target_modules" in line,  # the layers are those of a model
        )
