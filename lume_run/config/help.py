"""What `lume-run --help` and `lume-run --help GROUP` print, from the first comments of the YAML files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from lume_run.common.errors import ConfigError, Problem
from lume_run.config.overrides import FAMILIES, group_options
from lume_run.config.suggest import suggest_nearest

HELP_OVERVIEW = """lume-run: train -> unlearn -> evaluate, one command.
  lume-run                                        the embedded default: no download, CPU; debug=default makes it short
  lume-run method=npo task=bios model=7b          the released 7B target
  lume-run task=bios task.data_dir=FOLDER model.path=FOLDER_OR_ID
  lume-run -m method=ga,gd,kl,npo seed=0,1        every combination in turn; dry_run=true shows the plan
  lume-run stages=[evaluate] model.path=FOLDER    score any model; stages=[score] responses=FILE without one
"""
HELP_CLOSING = """Anything is path=value (lume-run --cfg job shows all). Own YAML files: --config-dir FOLDER.
Tab completion: eval "$(lume-run -sc install=bash)"   More of Hydra: lume-run --hydra-help
"""
HELP_FLAGS = ("--help", "-h")
GROUP_ORDER = (
    "task",
    "model",
    "trainer",
    "method",
    "method/forget",
    "method/retain",
    "sequence",
    "attack",
    "evaluator",
    "launch",
    "logger",
)
FOLDED_AT = {"method": "_"}  # behind what names of a group share, where that is no hyphen
WIDTH, INDENT = 118, 19  # columns


def help_topic(arguments: Sequence[str]) -> str:
    """The group behind `--help`; empty where there is none."""
    at = next(number for number, argument in enumerate(arguments) if argument in HELP_FLAGS)
    topic = "".join(arguments[at + 1 : at + 2])
    return "" if topic.startswith("-") or "=" in topic else topic


def help_text(folders: Sequence[Path], topic: str = "") -> str:
    """All groups with the names of their options, or the options of one group, a line each.

    Raises ConfigError for a group that there is none of.
    """
    groups = group_options(folders)
    if not topic:
        return _overview(groups)
    if topic not in groups:
        problem = Problem(where="--help", what=f"there is no group '{topic}'", remedy=suggest_nearest(topic, groups))
        raise ConfigError([problem])
    width = max(14, *map(len, groups[topic]))
    lines = [f"{topic}=", *(f"  {name:<{width}} {comment}" for name, comment in sorted(groups[topic].items()))]
    parts = [f"lume-run --help {group}" for group in groups if group.startswith(f"{topic}/")]
    return "\n".join([*lines, *([f"Parts: {', '.join(parts)}"] if parts else [])])


def _overview(groups: dict[str, dict[str, str]]) -> str:
    names = [name for name in GROUP_ORDER if name in groups]
    names += sorted(groups.keys() - {*names, FAMILIES})
    lines = [HELP_OVERVIEW, "Groups and their options; lume-run --help GROUP says what each of them is:"]
    lines += [_name_list(f"{name}=", fold_names(groups[name], FOLDED_AT.get(name, "-"))) for name in names]
    lines += ["", f"Published recipes, {FAMILIES}=FAMILY/NAME; lume-run --help {FAMILIES}:"]
    for family, recipes in _recipes_by_family(groups.get(FAMILIES, {})).items():
        lines.append(_name_list(family or f"{FAMILIES}=", fold_recipes(recipes)))
    return "\n".join([*lines, HELP_CLOSING])


def _name_list(heading: str, names: Iterable[str]) -> str:
    first = f"  {heading:<{INDENT - 2}}"
    return textwrap.fill(
        ", ".join(names), WIDTH, initial_indent=first, subsequent_indent=" " * INDENT, break_on_hyphens=False
    )


def fold_names(names: Iterable[str], mark: str = "-") -> list[str]:
    """Names in order, those that share what stands before their first `mark` in one: llama-{2-7b,3.1-8b}."""
    heads: dict[str, list[str]] = {}
    for name in names:
        head, sign, tail = name.partition(mark)
        heads.setdefault(head + sign, []).append(tail)
    return [f"{head}{{{','.join(tails)}}}" if len(tails) > 1 else head + tails[0] for head, tails in heads.items()]


def fold_recipes(names: Iterable[str]) -> list[str]:
    """Names of one family, folded at their first underscores, those with the same ends in one: {a,b}_{c,d}."""
    heads: dict[tuple[str, ...], list[str]] = {}
    for folded in fold_names(names, "_"):
        head, brace, inner = folded.partition("{")
        tails = inner.removesuffix("}").split(",")
        firsts = {tail.partition("_")[0] for tail in tails}
        if brace and len(firsts) == 1 and all("_" in tail for tail in tails):  # real_{world_a,world_b}
            head, tails = f"{head}{firsts.pop()}_", [tail.partition("_")[2] for tail in tails]
        heads.setdefault(tuple(tails) if brace else (head, ""), []).append(head.removesuffix("_"))
    joined = {ends: f"{{{','.join(names)}}}" if len(names) > 1 else names[0] for ends, names in heads.items()}
    return [head if ends[-1] == "" else f"{head}_{{{','.join(ends)}}}" for ends, head in joined.items()]


def _recipes_by_family(options: Iterable[str]) -> dict[str, list[str]]:
    """`{"semeval/": ["npo", ...]}`: names by the folder of their file, a user's own without a folder under ""."""
    families: dict[str, list[str]] = {}
    for option in sorted(options):
        family, slash, name = option.rpartition("/")
        families.setdefault(family + slash, []).append(name)
    return families
