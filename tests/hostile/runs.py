"""Finished runs that are repeated or reported, sweeps, and what surrounds a command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from .case import MARK, Case, Prepare
from .files import both, changed, copied, directory, fifo, link, removed, truncated, written

EVIL_MODULE = written("evil.py", f"import pathlib\npathlib.Path({MARK!r}).touch()\n")


def config_with(text: str) -> Prepare:
    """More lines in the config of a run."""

    def change(folder: Path) -> None:
        with (folder / "config.yaml").open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def config_replaced(before: str, after: str) -> Prepare:
    """Other text in the config of a run."""

    def change(folder: Path) -> None:
        path = folder / "config.yaml"
        text = path.read_text(encoding="utf-8")
        assert before in text, before
        path.write_text(text.replace(before, after, 1), encoding="utf-8")

    return change


REPEATS: dict[str, tuple[Prepare, str]] = {
    "no config": (removed("config.yaml"), "config.yaml"),
    "config cut": (written("config.yaml", "seed: ["), "config.yaml"),
    "config a list": (written("config.yaml", "- 1\n"), "config.yaml"),
    "config in UTF-16": (written("config.yaml", "seed: 1\n".encode("utf-16")), "config.yaml"),
    "config in Latin-1": (written("config.yaml", b"# \xe9\nseed: 1\n"), "config.yaml"),
    "config a pipe": (both(removed("config.yaml"), fifo("config.yaml")), "config.yaml"),
    "config a device": (both(removed("config.yaml"), link("config.yaml", "/dev/zero")), "config.yaml"),
    "config deep": (written("config.yaml", "a: " + "[" * 3000 + "]" * 3000), "config.yaml"),
    "config of an unknown key": (config_with("nothing: 1\n"), "nothing"),
    "config with a foreign class": (config_replaced("lume_run.tasks.lume.LumeTask", "evil.Evil"), "evil.Evil"),
    "config that allows itself": (
        both(
            config_replaced("lume_run.tasks.lume.LumeTask", "evil.Evil"),
            config_replaced("allow_external: []", "allow_external: [evil]"),
        ),
        "allow_external",
    ),
    "config that trusts itself": (
        config_replaced("trust_remote_code: false", "trust_remote_code: true"),
        "trust_remote_code",
    ),
    "config of a name that leaves": (config_replaced("name: tiny", "name: ../../x"), "model.name"),
}
REPORTS: dict[str, Prepare] = {
    "no report": removed("report.json"),
    "report cut": truncated("report.json", 0.5),
    "report a list": written("report.json", "[]"),
    "report of nothing": written("report.json", "{}"),
    "report a pipe": both(removed("report.json"), fifo("report.json")),
    "report a device": both(removed("report.json"), link("report.json", "/dev/zero")),
    "report a folder": both(removed("report.json"), directory("report.json")),
    "report a loop": both(removed("report.json"), link("report.json", "report.json")),
    "report deep": written("report.json", "[" * 100_000),
    "report of words": changed("report.json", scores="many", subjects=3),
    "report in UTF-16": written("report.json", "{}".encode("utf-16")),
    "config cut": written("config.yaml", "seed: ["),
    "config deep": written("config.yaml", "a: " + "[" * 3000 + "]" * 3000),
    "config a pipe": both(removed("config.yaml"), fifo("config.yaml")),
    "a seed of 400 digits": config_replaced("seed: 0\n", "seed: 1" + "0" * 400 + "\n"),
    "a seed of infinity": config_replaced("seed: 0\n", "seed: .inf\n"),
    "a seed of words": config_replaced("seed: 0\n", "seed: [a, b]\n"),
    "manifest cut": written("manifest.json", "{"),
    "manifest of numbers": written("manifest.json", "[1]"),
    "escapes in a name": config_replaced("name: tiny", 'name: "\\e[31mtiny"'),
}
SWEEPS: dict[str, tuple[list[str], str]] = {
    "an unknown method": (["method=npo,nothing"], "nothing"),
    "a bound": (["trainer.unlearn.learning_rate=1e-4,0"], "learning_rate"),
    "a hundred thousand jobs": (["seed=range(0,100000)"], "100,000"),
    "a grid of ten billion": (["seed=range(0,100000)", "trainer.unlearn.epochs=range(1,100000)"], "jobs"),
    "an empty range": (["seed=range(3,1)"], "seed"),
    "a batch size of nothing": (["hydra.sweeper.max_batch_size=0", "seed=0,1"], "max_batch_size"),
    "an unknown setting": (["hydra.sweeper.nothing=1", "seed=0,1"], "nothing"),
    "no trials": (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=0", "seed=0,1"], "n_trials"),
    "trials in words": (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=many", "seed=0,1"], "n_trials"),
    "no jobs": (["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=0", "seed=0,1"], "n_jobs"),
    "an unknown direction": (["hydra/sweeper=optuna", "hydra.sweeper.direction=up", "seed=0,1"], "direction"),
    "an unknown sampler": (["hydra/sweeper=optuna", "hydra.sweeper.sampler=x", "seed=0,1"], "sampler"),
    "an unknown option": (["hydra/sweeper=optuna", "hydra.sweeper.trials=3", "seed=0,1"], "trials"),
    "a search of nothing": (["hydra/sweeper=optuna"], "sweep"),
    "a log interval from nothing": (
        ["hydra/sweeper=optuna", "trainer.unlearn.learning_rate=tag(log,interval(0,1))"],
        "learning_rate",
    ),
    "an interval the wrong way": (
        ["hydra/sweeper=optuna", "trainer.unlearn.learning_rate=interval(1,0.1)"],
        "learning_rate",
    ),
    "an interval without a search": (["trainer.unlearn.learning_rate=interval(0.1,1)"], "interval"),
    "joblib of no jobs": (["hydra/launcher=joblib", "hydra.launcher.n_jobs=words", "seed=0,1"], "n_jobs"),
}
ENVIRONMENTS: dict[str, tuple[dict[str, str], str]] = {
    "a world of letters": ({"WORLD_SIZE": "abc", "RANK": "0"}, "WORLD_SIZE"),
    "a rank of letters": ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK"),
    "a rank beyond": ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK"),
    "nodes of letters": ({"SLURM_JOB_ID": "1", "SLURM_NNODES": "many", "SLURM_PROCID": "x"}, "SLURM"),
    "a mode of W&B": ({"WANDB_MODE": "sometimes"}, "WANDB_MODE"),
    "a server of W&B": (
        {"WANDB_BASE_URL": "https://user:secret@example.com", "WANDB_MODE": "online"},
        "WANDB_BASE_URL",
    ),
}


def cases(run: Path) -> Iterator[Case]:
    """Repeated, reported, swept, and in strange surroundings."""
    for name, (damage, culprit) in REPEATS.items():
        yield Case(
            name=f"repeat: {name}",
            program="repeat",
            arguments=["r"],
            names=[culprit],
            prepare=both(copied(lambda: run, "r", damage), EVIL_MODULE),
        )
    for name, arguments in {
        "nowhere": ["nowhere"],
        "nothing": [],
        "an override": ["{run}", "seed=1"],
        "a file": ["{run}/report.json"],
    }.items():
        yield Case(name=f"repeat: {name}", program="repeat", arguments=arguments)
    for name, damage in REPORTS.items():
        yield Case(
            name=f"report: {name}",
            program="report",
            arguments=["outputs"],
            prepare=both(copied(lambda: run, "outputs/good"), copied(lambda: run, "outputs/bad", damage)),
            accepted=True,
            needs_model=True,
        )
    latin = os.fsdecode(b"caf\xe9")
    yield Case(
        name="report: a folder name in Latin-1",
        program="report",
        arguments=["outputs"],
        prepare=both(copied(lambda: run, "outputs/good"), copied(lambda: run, f"outputs/{latin}")),
        accepted=True,
        needs_model=True,
    )
    report: dict[str, tuple[list[str], str]] = {
        "nowhere": (["nowhere"], "nowhere"),
        "an unknown flag": (["{outputs}", "--nope"], "--nope"),
        "a column that is none": (["{outputs}", "--columns", "nothing"], "nothing"),
        "an output that is a file": (["{outputs}", "--out", "/dev/null/x"], "/dev/null"),
        "an output of 300 letters": (["{outputs}", "--out", "x" * 300], "xxx"),
    }
    for name, (arguments, culprit) in report.items():
        yield Case(name=f"report: {name}", program="report", arguments=arguments, names=[culprit])
    for name, (arguments, culprit) in SWEEPS.items():
        for how, flags in (("plan", ["--dry-run"]), ("start", ["debug=default"])):
            yield Case(name=f"sweep: {name}, {how}", arguments=["-m", *flags, *arguments], names=[culprit])
    for name, (environment, culprit) in ENVIRONMENTS.items():
        yield Case(
            name=f"environment: {name}",
            arguments=["debug=default", "logger=wandb"],
            names=[culprit],
            environment=environment,
        )
    places: dict[str, tuple[list[str], Prepare | None, str]] = {
        "a file in the way": (["output_dir=f"], written("f", "x"), "output_dir"),
        "below a file": (["output_dir=f/g"], written("f", "x"), "output_dir"),
        "a device": (["output_dir=/dev/null/x"], None, "output_dir"),
        "of the system": (["output_dir=/proc/x"], None, "output_dir"),
        "of the system, deeper": (["output_dir=/sys/x/y"], None, "output_dir"),
        "of 300 letters": (["output_dir=" + "x" * 300], None, "output_dir"),
        "of 5,000 letters": (["output_dir=" + "/".join(["y" * 100] * 50)], None, "output_dir"),
        "a loop": (["output_dir=l"], link("l", "l"), "output_dir"),
        "a store that is a file": (["output_dir=o"], written("o/store", "x"), "store"),
        "a folder of Hydra": (["hydra.run.dir=f"], written("f", "x"), "hydra.run.dir"),
        "a folder of Hydra's own files": (["hydra.output_subdir=../../x", "output_dir=o"], None, "hydra.output_subdir"),
    }
    for name, (arguments, prepare, culprit) in places.items():
        for how, flags in (
            ("run", ["debug=default"]),
            ("plan", ["--dry-run"]),
            ("sweep", ["debug=default", "-m", "seed=0,1"]),
        ):
            if how == "sweep" and name == "a folder of Hydra":  # hydra.run.dir is not of a sweep
                continue
            yield Case(name=f"place: {name}, {how}", arguments=[*flags, *arguments], names=[culprit], prepare=prepare)
    yield Case(
        name="place: a report in the way",
        arguments=["debug=default", "hydra.run.dir=r"],
        names=["r"],
        prepare=written("r", json.dumps({})),
    )
    secrets = {"MY_API_KEY": "sk-0123456789abcdef0123", "DB_PASSWORD": "correct-horse-battery"}
    for name, argument, culprit in (
        ("a URL with a password", "model.path=https://me:hunter2@example.com/m", "model.path"),
        ("a key in a tag", "logger.tags=[sk-0123456789abcdef0123]", "logger.tags"),
        ("a key in a project", "logger.project=sk-0123456789abcdef0123", "logger.project"),
        ("a password in a name", "model.name=correct-horse-battery", "model.name"),
        ("a variable", "logger.group=${oc.env:MY_API_KEY}", "logger.group"),
        ("a variable inside a text", "'logger.group=run-${oc.env:DB_PASSWORD}'".strip("'"), "logger.group"),
    ):
        yield Case(name=f"secret: {name}", arguments=["--dry-run", argument], names=[culprit], environment=secrets)
