"""The documentation says what is there: every command composes, every setting, file, module and package exists."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import yaml
from helpers.documents import Command, commands, name_of, pages, snippets, sources
from helpers.shared import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from hydra.errors import HydraException
from test_architecture import FLOOR_OF
from transformers import OlmoForCausalLM

from lume_run import __version__
from lume_run.cli import jobs_to_check
from lume_run.common.errors import ConfigError
from lume_run.common.logits import token_logps
from lume_run.common.records import Response
from lume_run.config.command import read_command
from lume_run.config.help import HELP_FLAGS, help_text, help_topic
from lume_run.config.model_settings import ShapeSettings
from lume_run.config.overrides import (
    compose,
    conf_dir,
    group_options,
    sweep_choices,
)
from lume_run.config.permissions import PERMISSIONS
from lume_run.config.resolve import JUDGES
from lume_run.config.settings import Settings
from lume_run.evaluation.entries.scores import CATALOGUE
from lume_run.evaluation.suites.base import Answers
from lume_run.methods.base import Signals
from lume_run.methods.needs import Count, Role, Totals
from lume_run.models.tiny import olmo_config
from lume_run.pipeline.checks.config import check_config, require_settings
from lume_run.report.comparison.main import argument_parser
from lume_run.report.comparison.published import published_tables
from lume_run.sweeps.plugins import register

PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]+")  # FOLDER, FILE, FOLDER_OR_ID, ...: for the reader to fill in
DATA_FILES = (
    *("forget.jsonl", "retain.jsonl", "forget01.jsonl", "retain99.jsonl", "forget01_perturbed.jsonl"),
    *("neighbor.jsonl", "neighbor_perturbed.jsonl", "forget_perturbed.jsonl"),
    *("retain_perturbed.jsonl", "real_authors_perturbed.jsonl", "world_facts_perturbed.jsonl", "test/law_test.csv"),
)
OPTIONS = {group: set(choices) for group, choices in group_options([conf_dir()]).items()}
PARTS = {group.partition("/")[0] for group in OPTIONS} | {"hydra"}
SETTING = re.compile(r"(?P<key>[a-z_0-9]+(?:[./][\w<>*]+)*)(?:=(?P<value>.*))?")
NAMED_PATH = re.compile(r"(?<![\w./~-])(?:lume_run|conf|scripts|tests|docs|\.ci)/[\w./<>*-]*[\w>*]")
NAMED_MODULE = re.compile(r"(?<![\w./])lume_run(?:\.\w+)+")
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")
PUBLISHED = "<!-- published: "  # the table of published.yaml that follows
EXTENDING = ROOT / "docs" / "extending.md"
TEXTS = [path for path in (*pages(), *sources()) if path.exists()]
TEXTS_OF_TODAY = [path for path in TEXTS if path.name != "LOG.md"]  # a log also names what is gone
MARKDOWN = [path for path in TEXTS if path.suffix == ".md"]
MARKDOWN_OF_TODAY = [path for path in TEXTS_OF_TODAY if path.suffix == ".md"]

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="the documentation is not shipped with the package"
)


def by_name(path: Path) -> str:
    return name_of(path)


def commands_of(path: Path, *programs: str) -> list[Command]:
    """The different commands of a file that start one of these programs."""
    listed = [command for snippet in snippets(path) for command in commands(snippet)]
    return [command for command in dict.fromkeys(listed) if command.program.startswith(programs)]


# ------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="session")
def reader(tiny, tmp_path_factory) -> Path:
    """A reader's folder: a model, beside which whatever file a command asks for has its name, empty or nearly so."""
    register()  # as the command does, or Hydra warns of launchers that have two schemas
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("reader"), dirs_exist_ok=True))
    for name in DATA_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "file").write_text("I do not know.\n", encoding="utf-8")
    write_examples(folder)
    return folder


def filled(words: Sequence[str], reader: Path) -> list[str]:
    """The words with the reader's files and folders in place of placeholders."""

    places = {"FILE": reader / "file", "MY_CONF": reader / "MY_CONF", "GROUP": "method"}

    def fill(text: str) -> str:
        return str(places.get(text, reader)) if PLACEHOLDER.fullmatch(text) else text

    def fill_word(word: str) -> str:
        key, _, value = word.rpartition("=")
        if key in JUDGES and PLACEHOLDER.fullmatch(value):  # the reader's folder is no judge
            return f"{key}=owner/judge"
        return "=".join((*key.split("="), fill(value))) if key else fill(value)

    return [fill_word(word) for word in words]


def values_of(override: str) -> list[str]:
    """The choices of a swept override as the command expands it; of a range or an interval its start."""
    if choices := sweep_choices(override):
        return choices
    parsed = OverridesParser.create().parse_override(override)
    sweep = parsed.value()
    assert isinstance(sweep, (IntervalSweep, RangeSweep)), override
    return [f"{parsed.key_or_group}={sweep.start}"]


@cache
def problems_of_job(job: tuple[str, ...], folders: tuple[Path, ...]) -> list[str]:
    """Why a job would not start. A plan is checked, so that the GPUs and nodes of this machine do not matter."""
    try:
        composed = compose([*job, *(["dry_run=true"] if "dry_run=true" not in job else [])], folders)
    except (HydraException, ValueError) as error:
        return [f"{' '.join(job)}: {error}"]
    return [f"{' '.join(job)}: {problem}" for problem in check_config(composed).problems]


def problems_of(words: Sequence[str], reader: Path) -> list[str]:
    """Why `lume-run` would refuse a command line."""
    words = filled(words, reader)
    if set(HELP_FLAGS) & set(words):
        assert help_text([conf_dir()], help_topic(words))
        return []
    try:
        command = read_command(["dry_run=true" if word == "--dry-run" else word for word in words])
    except ConfigError as error:
        return [str(error)]
    if command.asks_hydra and not {"--cfg", "-c"} & set(command.flags):
        return []
    jobs = jobs_to_check([values_of(override) if command.sweeping else [override] for override in command.overrides])
    return [problem for job in jobs for problem in problems_of_job(tuple(job), command.folders)]


BEFORE = {"lume-run": (), "lume-run-compare": ("-m", "hydra/sweeper=compare")}  # what a program puts before its words


@pytest.mark.parametrize("path", [path for path in TEXTS if commands_of(path, "lume-run")], ids=by_name)
@pytest.mark.usefixtures("my_package")
def test_every_command_composes(path, reader):
    refused = {
        str(command): problems
        for command in commands_of(path, "lume-run")
        if command.program in BEFORE and (problems := problems_of((*BEFORE[command.program], *command.words), reader))
    }
    assert refused == {}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["method=npo", "method.beta=0.1"], "method.beta"),
        (["-m", "method=npo_gd", "method.beta=interval(0.05, 1)"], "method.beta"),
        (["-m", "method=npo,nothing"], "nothing"),
        (["trainer.unlearn.epochs=-1"], "out of range"),
        (["--dry"], "--dry"),
        (["experiment=nothing"], "nothing"),
        (["task.data_dir=FILE"], "not a folder"),
    ],
)
def test_a_command_that_does_not_compose_is_seen(words, problem, reader):
    assert problem in "\n".join(problems_of(words, reader))


@pytest.mark.parametrize("path", [path for path in TEXTS if commands_of(path, "sbatch")], ids=by_name)
def test_overrides_behind_a_script_of_sbatch_compose(path, reader):
    for command in commands_of(path, "sbatch"):
        at = next((at for at, word in enumerate(command.words) if word.endswith(".sbatch")), len(command.words))
        overrides = [word for word in command.words[at + 1 :] if "=" in word]
        assert problems_of(overrides, reader) == [], str(command)


def test_parameters_of_the_wandb_sweep_compose(reader):
    sweep = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    values = {
        name: space.get("values", [space.get("min"), space.get("max")]) for name, space in sweep["parameters"].items()
    }
    shared = [word for word in sweep["command"] if "$" not in word]
    swept = [f"{name}={','.join(map(str, choices))}" for name, choices in values.items()]
    assert shared and problems_of(["-m", *shared, *swept], reader) == []


@pytest.mark.parametrize("path", [path for path in TEXTS if commands_of(path, "lume-run-report")], ids=by_name)
def test_options_of_the_report_exist(path):
    for command in commands_of(path, "lume-run-report"):
        argument_parser().parse_args(command.words or ["outputs"])


@pytest.mark.parametrize("path", [path for path in TEXTS if commands_of(path, "python -m lume_run")], ids=by_name)
def test_modules_to_start_exist(path):
    for command in commands_of(path, "python -m lume_run"):
        module = command.program.split()[-1]
        assert module_problems(module if module != "lume_run" else "lume_run.__main__") == []
        if module == "lume_run":  # python -m lume_run RUN_FOLDER [PERMISSION=VALUE ...]
            folder, *given = command.words
            assert not folder.startswith("-"), str(command)
            assert {word.partition("=")[0] for word in given} <= set(PERMISSIONS), str(command)


@pytest.mark.parametrize("path", [path for path in TEXTS if commands_of(path, "python scripts/")], ids=by_name)
def test_options_of_the_scripts_exist(path):
    for command in commands_of(path, "python scripts/"):
        script = ROOT / command.program.split()[1]
        given = {word for word in command.words if word.startswith("--")}
        assert given <= options_of(script), str(command)
    if path.suffix == ".py":
        usage = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert set(re.findall(r"\[(--[\w-]+)", usage)) <= options_of(path)


def options_of(script: Path) -> set[str]:
    """What a script's argument parser knows."""
    calls = [node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = [call.args[0] for call in calls if ast.unparse(call.func).endswith("add_argument")]
    return {str(name.value) for name in names if isinstance(name, ast.Constant)}


def test_every_target_of_make_exists():
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    typed = [snippet.text for path in MARKDOWN for snippet in snippets(path)]
    targets = {target for text in typed for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)}
    assert targets and targets <= rules


# ------------------------------------------------------------------------------------------------- settings


def keys_below(node: Any, path: str) -> Iterator[str]:
    """The dotted paths of a mapping's keys."""
    for key, below in node.items() if isinstance(node, dict) else ():
        here = f"{path}.{key}".lstrip(".")
        yield here
        yield from keys_below(below, here)


def fields_below(record: Any, path: str) -> Iterator[str]:
    """The dotted paths of a settings class's fields."""
    for field in fields(record):
        here = f"{path}.{field.name}".lstrip(".")
        yield here
        hints = [get_type_hints(record)[field.name]]
        for hint in (*hints, *getattr(hints[0], "__args__", ())):
            if is_dataclass(hint):
                yield from fields_below(hint, here)


@cache
def known_settings() -> frozenset[str]:
    """Every path that some choice of options has, from the YAML files and the classes they name."""
    known = set(fields_below(Settings, "")) | {"hydra.run.dir", "hydra.sweep.dir", "hydra.job.override_dirname"}
    for path in conf_dir().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        group = path.parent.relative_to(conf_dir()).as_posix().replace("/", ".").removeprefix(".")
        prefix = "" if "@package _global_" in text or path.name == "config.yaml" else group
        tree = yaml.safe_load(text) or {}
        known |= set(keys_below(tree, prefix)) | {prefix}
        for where, target in targets_below(tree, prefix):
            known |= set(fields_below(target, where))
    return frozenset(known)


def targets_below(node: Any, path: str) -> Iterator[tuple[str, type]]:
    """(where, class) of every `_target_` of ours that has fields."""
    if isinstance(node, dict):
        module, _, name = str(node.get("_target_", "")).rpartition(".")
        target = getattr(import_module(module), name) if module.startswith("lume_run") else None
        if is_dataclass(target):
            yield path, target
        for key, below in node.items():
            yield from targets_below(below, f"{path}.{key}".lstrip("."))


def unknown_setting(word: str) -> bool:
    """Whether a word looks like a setting or a choice and is none; <name> and * stand for any name."""
    match = SETTING.fullmatch(word)
    if match is None:
        return False
    key, value = match["key"], match["value"]
    if key in OPTIONS:
        chosen = [
            choice for choice in re.split(r"[,|]", (value or "").strip("[]")) if re.fullmatch(r"\w+(/\w+)*", choice)
        ]
        return not OPTIONS[key] >= set(chosen)
    if key.partition(".")[0] not in PARTS or ("." not in key and value is None) or "/" in key:
        return False
    if any(word == definition.pattern for definition in CATALOGUE):  # scores of attacks begin as settings do
        return False
    pattern = re.sub(r"<\w+>", "*", key)
    return not any(fnmatch(known, pattern) for known in known_settings())


@pytest.mark.parametrize("path", TEXTS_OF_TODAY, ids=by_name)
def test_every_setting_exists(path):
    spans = [snippet.text for snippet in snippets(path) if not snippet.block]
    assert [word for text in spans for word in text.split() if unknown_setting(word.strip("'\",;"))] == []


@pytest.mark.parametrize(
    ("word", "unknown"),
    [
        ("method.beta", True),
        ("method.beta=0.1", True),
        ("method.forget.beta", False),
        ("method.retain.beta=0.01", False),
        ("method=npo|gd", False),
        ("method=npo,nothing", True),
        ("method/forget=nothing", True),
        ("trainer.unlearn.<name>", False),
        ("trainer.unlern.epochs", True),
        ("model.lora.rank=8", False),
        ("hydra.sweeper.n_trials", False),
        ("hydra.sweeper.trials", True),
        ("WANDB_MODE=offline", False),
        ("forget.knowledge", False),
    ],
)
def test_a_setting_that_does_not_exist_is_seen(word, unknown):
    assert unknown_setting(word) is unknown


def test_the_readme_lists_every_option():
    """Group by group; of methods and recipes, which are many, the number of methods."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", text, re.MULTILINE))
    groups = {group: choices for group, choices in OPTIONS.items() if "/" not in group}
    assert rows.keys() == groups.keys()
    for group in groups.keys() - {"method", "experiment"}:
        assert groups[group] <= set(re.findall(r"[\w.-]+(?<![.])", rows[group])), group
    assert rows["method"].startswith(f"{len(groups['method'])} named")


@pytest.mark.parametrize(
    ("group", "page"),
    [
        ("method", "methods.md"),
        ("method/forget", "methods.md"),
        ("method/retain", "methods.md"),
        ("task", "running.md"),
        ("attack", "attacks.md"),
        ("evaluator", "running.md"),
        ("launch", "parallel.md"),
        ("logger", "tracking.md"),
    ],
)
def test_every_option_is_on_its_page(group, page):
    spans = {word for snippet in snippets(ROOT / "docs" / page) for word in re.findall(r"\w+", snippet.text)}
    assert OPTIONS[group] - spans == set()


def test_the_size_of_the_tiny_model_is_the_true_one():
    """`count`: two matrices of vocabulary x width, four of width x width and three of width x MLP a layer."""
    shape = yaml.safe_load((conf_dir() / "model" / "tiny.yaml").read_text(encoding="utf-8"))["shape"]
    width, layers = shape["hidden_size"], shape["layers"]
    count = 2 * shape["vocabulary"] * width + layers * (4 * width**2 + 3 * width * shape["intermediate_size"])
    with torch.device("meta"):
        model = OlmoForCausalLM(olmo_config(ShapeSettings(**shape)))
    assert sum(weight.numel() for weight in model.parameters()) == count == 1_572_864
    prose = "\n".join(path.read_text(encoding="utf-8") for path in TEXTS_OF_TODAY)
    quoted = re.findall(r"(\d\.\d) M\b", prose)
    assert quoted and set(quoted) == {f"{count / 1e6:.1f}"}


# ------------------------------------------------------------------------------------------------- files and modules


def module_problems(name: str) -> list[str]:
    """Whether a dotted name is a module of ours, or something that stands in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:cut])
        file = folder.with_suffix(".py") if folder.with_suffix(".py").is_file() else folder / "__init__.py"
        if file.is_file():
            return [] if cut == len(parts) or parts[cut] in names_in(file) else [f"{name}: no {parts[cut]} in {file}"]
    return [f"{name}: no such module"]


@cache
def names_in(file: Path) -> frozenset[str]:
    """The top-level names of a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = {
        name.id
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    return frozenset(defined | assigned)


@pytest.mark.parametrize("path", MARKDOWN_OF_TODAY, ids=by_name)
def test_every_file_exists(path):
    names = {name for snippet in snippets(path) for name in NAMED_PATH.findall(snippet.text)}
    patterns = [re.sub(r"<\w+>", "*", name) for name in sorted(names)]
    assert [pattern for pattern in patterns if not any(ROOT.glob(pattern))] == []


@pytest.mark.parametrize("path", TEXTS_OF_TODAY, ids=by_name)
def test_every_module_exists(path):
    names = sorted(set(NAMED_MODULE.findall(path.read_text(encoding="utf-8"))))
    absent = [problem for name in names if not name.startswith("lume_run.cli.") for problem in module_problems(name)]
    assert absent == []


@pytest.mark.parametrize("path", MARKDOWN_OF_TODAY, ids=by_name)
def test_every_name_in_a_file_exists(path):
    """`name` in `file.py`, `name` and `other` in `file.py`."""
    text = path.read_text(encoding="utf-8")
    for names, file in re.findall(r"((?:`\w+`(?:,|\s+and|\s+or)?\)?\s+)+)in\s+`([\w/]+\.py)`", text):
        assert set(re.findall(r"\w+", names)) - {"and", "or"} <= names_in(ROOT / file), file


@pytest.mark.parametrize("path", MARKDOWN, ids=by_name)
def test_every_import_of_an_example_exists(path):
    blocks = [snippet.text for snippet in snippets(path) if snippet.language == "python"]
    imports = [node for text in blocks for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
    assert [problem for name in names if name.startswith("lume_run.") for problem in module_problems(name)] == []


def anchors_of(path: Path) -> set[str]:
    """The anchors that headings of a page get."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=by_name)
def test_every_link_leads_somewhere(path):
    for link in LINK.finditer(path.read_text(encoding="utf-8")):
        page = path.parent / link["path"] if link["path"] else path
        assert page.exists(), link[0]
        assert link["anchor"] is None or link["anchor"] in anchors_of(page), link[0]


def test_pre_commit_has_the_pinned_linter():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (version,) = [repo["rev"].removeprefix("v") for repo in hooks if repo["repo"].endswith("ruff-pre-commit")]
    assert f"ruff=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    cited = {identifier["value"] for work in citation["references"] for identifier in work["identifiers"]}
    assert cited == {"arXiv:2502.15097", "arXiv:2410.08109"}


# ------------------------------------------------------------------------------------------------- the tree


def test_the_tree_of_the_readme_is_the_package():
    """Every package with a line of its own, from the bottom floor to the top, and nothing that is not there."""
    (block,) = [snippet.text for snippet in snippets(ROOT / "README.md") if snippet.text.startswith("lume_run/\n")]
    entries = re.findall(r"^( +)(\w+(?:/|\.py)) {2,}(\S.*)$", block, re.MULTILINE)
    assert len(entries) == len(block.split("\n")) - 1  # a name and what it is, in each line
    rooms = [name.rstrip("/").removesuffix(".py") for indent, name, _ in entries if len(indent) == 2]
    assert sorted(rooms) == sorted(FLOOR_OF)
    floors = [FLOOR_OF[room] for room in rooms]
    assert floors == sorted(floors)
    room = ""
    for indent, name, _ in entries:
        room = name if len(indent) == 2 else room
        assert (ROOT / "lume_run" / (name if len(indent) == 2 else room + name)).exists(), name


# ------------------------------------------------------------------------------------------------- docs/extending.md


def examples() -> dict[str, str]:
    """{path: text} of the files that docs/extending.md has its reader write: the first line names the file."""
    blocks = [snippet.text for snippet in snippets(EXTENDING) if snippet.language in ("python", "yaml")]
    named = [re.match(r"# (?P<path>\S+\.(?:py|yaml))\n(?P<text>.*)", text, re.DOTALL) for text in blocks]
    return {match["path"]: match["text"] for match in named if match}


def write_examples(folder: Path) -> None:
    """Write them below `folder`."""
    for name, text in examples().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def my_package(reader, monkeypatch):
    """The reader's package can be imported."""
    monkeypatch.syspath_prepend(str(reader))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def settings_with(reader: Path, *overrides: str) -> Settings:
    """The settings of a run with the reader's package."""
    composed = compose(["allow_external=[my_package]", *overrides], [conf_dir(), reader / "MY_CONF"])
    settings, _ = require_settings(composed)
    return settings


@pytest.mark.usefixtures("my_package")
def test_the_method_part_of_the_page_is_a_share_of_the_step(reader):
    """Two micro-batches of one row each give together what one of two gives."""
    method = settings_with(reader, "method=npo_gd", "method/forget=confidence", "method.forget_weight=1").method
    counts = {role: Count(rows=2, tokens=6, labels=6) for role in (Role.FORGET, Role.RETAIN)}
    roles = torch.tensor([Role.FORGET, Role.FORGET, Role.RETAIN, Role.RETAIN])
    logits = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    targets, labels = torch.zeros(4, 3, dtype=torch.long), torch.ones(4, 3, dtype=torch.bool)

    def loss(*rows: int) -> float:
        signals = Signals(
            logps=token_logps(logits, targets)[[*rows]],
            mask=labels[[*rows]],
            is_answer=labels[[*rows]],
            targets=targets[[*rows]],
            role=roles[[*rows]],
            totals=Totals(counts=counts),
            logits=logits[[*rows]],
        )
        return float(method(signals).total)

    confidence = logits[:2].softmax(-1).amax(-1).mean()
    answers = -token_logps(logits, targets)[2:].mean()
    assert loss(0, 1, 2, 3) == pytest.approx(float(confidence + answers))
    assert loss(0, 2) + loss(1, 3) == pytest.approx(loss(0, 1, 2, 3))
    assert float(method.forget.temperature) == 1.0


@pytest.mark.usefixtures("my_package")
def test_the_task_and_the_suite_of_the_page_fit_together(reader):
    settings = settings_with(reader, "task=sums", "evaluator=[lume,capitals]", "task.num_documents=3")
    data = settings.task.load(0)
    assert (len(data.forget), len(data.retain)) == (3, 3)
    suite = settings.evaluator.suites["capitals"]
    questions = suite.asks(data, settings.evaluator)
    assert [question.example for question in questions] == list(data.forget)
    responses = [
        Response(
            id=question.example.id,
            ask=question.ask,
            split=question.example.split,
            subtask=question.example.subtask,
            kind=question.example.kind,
            document=question.example.document,
            prompt=question.example.prompt,
            expected=question.example.answer,
            output=output,
        )
        for question, output in zip(questions, ("SUM", "sum", "A SUM"), strict=True)
    ]
    (score,) = suite.scores(Answers(responses=responses, evaluator=settings.evaluator))
    assert (score.name, score.n) == ("capitals.forget", 3)
    assert score.value == pytest.approx(2 / 3)
    (missing,) = suite.scores(Answers(responses=[], evaluator=settings.evaluator))
    assert missing.value is None and missing.reason


@pytest.mark.parametrize(
    "path", [path for path in MARKDOWN if "<!-- published: " in path.read_text("utf-8")], ids=by_name
)
def test_published_rows_are_those_of_the_reports(path):
    """A table behind `<!-- published: ID -->` says what published.yaml does."""
    published = {table.id: table for table in published_tables()}
    parts = re.split(PUBLISHED + r"([\w.-]+) -->\n\n", path.read_text(encoding="utf-8"))[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        head, _, *lines = (line for line in text.split("\n\n")[0].split("\n"))
        cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in (head, *lines)]
        table = published[name]
        assert cells[0] == [table.title, *table.scores]
        assert cells[1:] == [[row, *map(str, values.values())] for row, values in table.rows], name
