"""What the documentation tells its reader to type, and the names that it mentions.

Code is read from Markdown (fenced and indented blocks, inline code), from comments of YAML files and shell scripts, and
from docstrings; commands are taken out of the code as a shell would split them.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.shared import ROOT

PROGRAMS = re.compile(
    r"(?<!--project )(?<![\w./'-])"
    r"(lume-run-report|lume-run-compare|lume-run|python -m lume_run[\w.]*|python scripts/\w+\.py|sbatch)(?=\s|$)"
)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)*)`")
NOT_A_SHELL = {"python", "yaml", "text"}
ENDS = {"&", "&&", "||", "|", ";"}  # what a shell takes as the end of a command
PROSE_GAP = 3  # spaces between a command and what is said about it


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A piece of code on a page: an inline span, or the lines of a block; `language` of a fenced one."""

    page: str
    text: str
    block: bool
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command line as a page has it: its program and its words."""

    page: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.program} {shlex.join(self.words)}"


def pages() -> list[Path]:
    """Every Markdown page a reader of the project meets."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def sources() -> list[Path]:
    """Every file besides the pages that says how something is called."""
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.suffix in (".py", ".sbatch", ".yaml")]
    return [*sorted((ROOT / "conf").rglob("*.yaml")), *sorted(scripts), ROOT / "lume_run" / "config" / "help.py"]


def name_of(path: Path) -> str:
    """A file's path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def snippets(path: Path) -> list[Snippet]:
    """The code on a page, in comments or in docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree = ast.parse(text)
        constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        return [snippet for prose in constants if isinstance(prose, str) for snippet in markdown(path, prose, indent=2)]
    if path.suffix == ".md":
        return list(markdown(path, text, indent=4))
    prose = "\n".join(line[1:].removeprefix(" ") if line.startswith("#") else "" for line in text.split("\n"))
    return list(markdown(path, prose, indent=2))


def markdown(path: Path, text: str, indent: int) -> Iterator[Snippet]:
    """Blocks between fences, blocks indented by at least `indent` after an empty line, and inline code."""
    page, prose, block, fence = name_of(path), [], [], None
    for line in [*text.split("\n"), ""]:
        indented = line.startswith(" " * indent) and (block or not prose or not prose[-1].strip())
        if fence is None and block and line.strip() and not indented:
            yield Snippet(page=page, text="\n".join(block), block=True)
            block = []
        if line.strip().startswith("```"):
            if fence is not None:
                yield Snippet(page=page, text="\n".join(block), block=True, language=fence)
            block, fence = [], line.strip().removeprefix("```") if fence is None else None
        elif fence is not None or indented or (block and not line.strip()):
            block.append(line if fence is not None else line.strip())
        else:
            prose.append(line)
            continue
        prose.append("")
    if block:
        yield Snippet(page=page, text="\n".join(block), block=True)
    for match in INLINE.finditer("\n".join(prose)):
        yield Snippet(page=page, text=" ".join(match[1].split()), block=False)


def commands(snippet: Snippet) -> Iterator[Command]:
    """The commands in a piece of code; `...` stands for more words of the reader's and is left out."""
    for line in re.sub(r"\\\n\s*", "", snippet.text).split("\n"):
        match = PROGRAMS.search(re.sub(r"(^|\s)# .*", "", line))
        if match is None or snippet.language in NOT_A_SHELL:
            continue
        rest = line[match.end() :]
        if line[: match.start()].endswith("$("):
            rest = rest.partition(")")[0]
        if snippet.block and rest.startswith(" " * PROSE_GAP):  # the command alone, and what it does
            rest = ""
        rest = re.split(rf"(?<=\S) {{{PROSE_GAP},}}", rest)[0]
        words = shlex.split(rest, comments=True)
        end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
        bare = [word if "=" in word else word.strip("[]") for word in words[:end]]  # [optional words] of a usage line
        kept = [word for word in bare if word != "..." and not word.endswith("=...")]
        yield Command(page=snippet.page, program=match[1], words=tuple(kept))
