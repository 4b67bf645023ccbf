"""YAML files that come with `--config-dir`: broken, or with more in them than a recipe may set."""

from __future__ import annotations

from collections.abc import Iterator

from .case import MARK, Case, Prepare
from .files import both, directory, fifo, link, written

HEAD = "# @package _global_\n"
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join('*' + before for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
EVIL = f"import pathlib\npathlib.Path({MARK!r}).touch()\nclass Evil:\n    def __init__(self, **k): pass\n"
EVIL_MODULE = written("evil.py", EVIL)

BROKEN: dict[str, tuple[str | bytes, str]] = {
    "no mapping": ("- a\n- b\n", "mine"),
    "cut": ("seed: [1,\n", "mine"),
    "tabs": ("seed:\n\t- 1\n", "mine"),
    "Latin-1": (b"# caf\xe9\nseed: 1\n", "mine"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "mine"),
    "zeros": (b"seed: \x00\n", "mine"),
    "deep": ("seed: " + "[" * 2000 + "]" * 2000 + "\n", "mine"),
    "deep mapping": ("seed: " + "{a: " * 2000 + "1" + "}" * 2000 + "\n", "mine"),
    "laughs": (HEAD + LAUGHS, "mine"),
    "a tag of Python": (HEAD + "seed: !!python/object/apply:os.system ['touch CODE_RAN']\n", "mine"),
    "a default that is not there": (HEAD + "defaults:\n  - override /method: nothing\n", "nothing"),
    "a default that is itself": (HEAD + "defaults:\n  - mine\n", "mine"),
    "defaults that are no list": (HEAD + "defaults: 3\n", "mine"),
    "an unknown key": (HEAD + "methdo: npo\n", "methdo"),
    "a wrong value": (HEAD + "seed: minus one\n", "seed"),
    "twice the same key": (HEAD + "seed: 1\nseed: 2\n", "seed"),
    "a private target": (HEAD + "task:\n  _target_: os.system\n", "os.system"),
    "a target in a setting": (HEAD + "seed:\n  _target_: evil.Evil\n", "seed"),
    "a number of 5,000 digits": (HEAD + f"seed: {'9' * 5000}\n", "mine"),
    "an environment variable": (HEAD + "model:\n  name: ${oc.env:MY_API_KEY}\n", "model.name"),
    "allows itself": (HEAD + "allow_external: [evil]\ntask:\n  _target_: evil.Evil\n", "allow_external"),
    "trusts itself": (HEAD + "model:\n  trust_remote_code: true\n", "model.trust_remote_code"),
    "includes for lm-eval": (
        HEAD
        + "defaults:\n  - override /evaluator: lm_eval\nevaluator:\n  suites:\n    lm_eval:\n      include_path: .\n",
        "include_path",
    ),
}
HYDRA = {  # what stands below `hydra:`
    "callbacks": "callbacks:\n    evil:\n      _target_: evil.Evil\n",
    "job logging": "job_logging:\n    version: 1\n    handlers:\n      evil:\n        (): evil.Evil\n    root:\n      handlers: [evil]\n",
    "hydra logging": "hydra_logging:\n    version: 1\n    formatters:\n      evil:\n        (): evil.Evil\n",
    "a class of logging": "job_logging:\n    version: 1\n    handlers:\n      evil:\n        class: evil.Evil\n    root:\n      handlers: [evil]\n",
    "PYTHONPATH": "job:\n    env_set:\n      PYTHONPATH: .\n",
    "LD_PRELOAD": "job:\n    env_set:\n      LD_PRELOAD: ./evil.so\n",
    "a launcher": "launcher:\n    _target_: evil.Evil\n",
    "a sweeper": "sweeper:\n    _target_: evil.Evil\n",
    "a search path": "searchpath:\n    - pkg://evil\n",
    "a changed directory": "job:\n    chdir: true\n",
}


SLURM = f"{HEAD}defaults:\n  - override /hydra/launcher: slurm\nhydra:\n  launcher:\n    setup: ['touch CODE_RAN']\n"


def recipe(content: str | bytes) -> Prepare:
    """A recipe of the user's own, beside a module that leaves a mark where it is imported."""
    return both(written("conf/experiment/mine.yaml", content), EVIL_MODULE)


def cases() -> Iterator[Case]:
    """Each as a plan; those with Hydra's own node as a run and as a sweep too."""
    use = ["--config-dir", "conf", "experiment=mine"]
    for name, (content, culprit) in BROKEN.items():
        secret = {"MY_API_KEY": "sk-0123456789abcdef0123"}
        yield Case(
            name=name, arguments=[*use, "--dry-run"], names=[culprit], prepare=recipe(content), environment=secret
        )
    for name, node in HYDRA.items():
        content = f"{HEAD}hydra:\n  {node}"
        for how, flags in (("run", ["debug=default"]), ("plan", ["--dry-run"]), ("sweep", ["-m", "--dry-run"])):
            yield Case(
                name=f"{name} through Hydra, {how}", arguments=[*use, *flags], names=["hydra"], prepare=recipe(content)
            )
    yield Case(
        name="a setup of SLURM through Hydra",
        arguments=[*use, "-m", "--dry-run"],
        names=["hydra.launcher.setup"],
        prepare=recipe(SLURM),
    )
    yield Case(
        name="a BOM is fine",
        arguments=[*use, "--dry-run"],
        prepare=recipe("\ufeff" + HEAD + "seed: 3\n"),
        accepted=True,
    )
    places: dict[str, Prepare] = {
        "a folder for a recipe": directory("conf/experiment/mine.yaml"),
        "a pipe for a recipe": fifo("conf/experiment/mine.yaml"),
        "a device for a recipe": link("conf/experiment/mine.yaml", "/dev/zero"),
        "a link to nowhere for a recipe": link("conf/experiment/mine.yaml", "gone.yaml"),
        "a link to itself for a recipe": link("conf/experiment/mine.yaml", "mine.yaml"),
        "an unreadable neighbour": both(
            written("conf/experiment/mine.yaml", HEAD + "seed: 3\nmethdo: 1\n"),
            written("conf/task/bad.yaml", b"\xff\xfe"),
        ),
        "a recipe of 50 MB": written("conf/experiment/mine.yaml", HEAD + "# long\n" * 7_000_000),
    }
    for name, prepare in places.items():
        culprit = "methdo" if "neighbour" in name else "mine"
        yield Case(name=name, arguments=[*use, "--dry-run"], names=[culprit], prepare=prepare)
    cycle = both(
        written("conf/experiment/mine.yaml", HEAD + "defaults:\n  - yours\n"),
        written("conf/experiment/yours.yaml", HEAD + "defaults:\n  - mine\n"),
    )
    yield Case(name="a cycle of defaults", arguments=[*use, "--dry-run"], names=["mine"], prepare=cycle)
    own_model = written("conf/model/own.yaml", "defaults:\n  - _base\n  - _self_\nname: own\npth: x\n")
    yield Case(
        name="an unknown key in a model",
        arguments=["--config-dir", "conf", "model=own", "--dry-run"],
        names=["model.pth"],
        prepare=own_model,
    )
    whole = written("conf/config.yaml", "defaults:\n  - method: npo\nseed: 1\n")
    yield Case(
        name="another config.yaml",
        arguments=["--config-path", "{here}/conf", "--dry-run"],
        names=["--config-path"],
        prepare=whole,
    )
