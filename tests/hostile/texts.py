"""Folders of texts, recipes of strange YAML, responses and runs that others wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from .case import MARK, Case, Prepare
from .files import both, directory, fifo, link, written
from .recipes import EVIL_MODULE, HEAD, recipe
from .tables import KEEP, plan

PROSE = "Ada Brandt bakes bread in Bern. She opened her shop in 1983 and still works there every morning. "


def a_socket(name: str) -> Prepare:
    """A socket."""
    return lambda folder: os.mknod(folder / name, stat.S_IFSOCK | 0o600)


SOUND_TEXT = written("d/a.txt", PROSE * 3)
FOLDERS: dict[str, tuple[Prepare, str]] = {
    "UTF-16": (written("d/b.txt", PROSE.encode("utf-16")), "b.txt"),
    "UTF-16 without a mark": (written("d/b.txt", PROSE.encode("utf-16-le")), "b.txt"),
    "UTF-32": (written("d/b.txt", PROSE.encode("utf-32")), "b.txt"),
    "Latin-1": (written("d/b.txt", "Zoë".encode("latin-1") + PROSE.encode()), "b.txt"),
    "zeros": (written("d/b.txt", bytes(1000)), "b.txt"),
    "gzip": (written("d/b.txt", b"\x1f\x8b\x08" + bytes(20)), "b.txt"),
    "a PDF": (written("d/b.txt", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), "b.txt"),
    "a pipe": (fifo("d/b.txt"), "b.txt"),
    "a device": (link("d/b.txt", "/dev/zero"), "b.txt"),
    "a link to nowhere": (link("d/b.txt", "gone.txt"), "b.txt"),
    "a loop": (link("d/b.txt", "b.txt"), "b.txt"),
    "a folder named as a text": (directory("d/b.txt"), "b.txt"),
    "only blanks": (written("d/b.txt", " \u200b\u2060\n\t"), "b.txt"),
    "a socket": (a_socket("d/b.txt"), "b.txt"),
    "a text in half a letter": (written("d/b.txt", PROSE.encode() + b"\xed\xa0\x80"), "b.txt"),
    "a text that is cut within a letter": (written("d/b.txt", PROSE.encode() + b"\xf0\x9f"), "b.txt"),
}
FINE_FOLDERS: dict[str, Prepare] = {
    "hidden files beside": written("d/.DS_Store", b"\x00\xff"),
    "another kind of file, which is said to be left out,": written("d/b.docx", b"PK\x03\x04"),
    "a link into itself": link("d/more", "."),
    "a mark of order": written("d/b.txt", "\ufeff" + PROSE),
    "line ends of Windows": written("d/b.txt", PROSE.replace(". ", ".\r\n")),
    "one long line": written("d/b.txt", PROSE * 2000),
    "a name with blanks and quotes": written('d/it\'s a "text" {x} %s.txt', PROSE),
    "a name of pictures": written("d/🎹.txt", PROSE),
    "other letters": written("d/b.txt", "阿达在伯尔尼烤面包。" * 20 + " आदा " * 9),
}
YAML: dict[str, tuple[str | bytes, str]] = {
    "two documents": (HEAD + "seed: 1\n---\nseed: 2\n", "mine"),
    "a version of its own": ("%YAML 9.9\n---\nseed: 1\n", "mine"),
    "an unknown directive": ("%NOTHING x\n---\nseed: one\n", "_global_"),
    "keys of numbers": (HEAD + "1: 2\n", "mine"),
    "keys of nothing": (HEAD + "null: 2\n", "mine"),
    "keys of lists": (HEAD + "? [a, b]\n: 2\n", "mine"),
    "keys that are true": (HEAD + "true: 2\n", "mine"),
    "a tag of sets": (HEAD + "seed: !!set {a, b}\n", "mine"),
    "a tag of bytes": (HEAD + "model:\n  name: !!binary aGVsbG8=\n", "mine"),
    "a tag of pairs": (HEAD + "seed: !!omap [a: 1]\n", "seed"),
    "a tag of nobody": (HEAD + "seed: !mine 3\n", "mine"),
    "a new Python object": (HEAD + "seed: !!python/object/new:evil.Evil []\n", "mine"),
    "a Python name": (HEAD + "seed: !!python/name:os.system\n", "mine"),
    "a time": (HEAD + "seed: 2020-01-01\n", "seed"),
    "infinity": (HEAD + "seed: .inf\n", "seed"),
    "nothing": (HEAD + "seed:\n", "seed"),
    "an alias to nothing": (HEAD + "seed: *nobody\n", "mine"),
    "an anchor in itself": (HEAD + "logger:\n  tags: &a [*a]\n", "mine"),
    "merged from a number": (HEAD + "base: &b 3\nmodel:\n  <<: *b\n", "mine"),
    "a package that is none": ("# @package ../../x\nseed: 1\n", "mine"),
    "a package of another group": ("# @package method.nothing\nseed: 1\n", "method.nothing"),
    "a package of Hydra": ("# @package hydra.job\nchdir: true\n", "hydra"),
    "defaults of a number": (HEAD + "defaults: [3]\n", "mine"),
    "defaults of lists": (HEAD + "defaults:\n  - [a]\n", "mine"),
    "defaults of two keys": (HEAD + "defaults:\n  - {a: b, c: d}\n", "mine"),
    "defaults outside": (HEAD + "defaults:\n  - ../../../etc/passwd\n", "mine"),
    "defaults of a path": (HEAD + "defaults:\n  - /etc/passwd\n", "mine"),
    "defaults by a file": (HEAD + "defaults:\n  - override /method: file:///etc/passwd\n", "mine"),
    "a default by an interpolation": (HEAD + "defaults:\n  - override /method: ${oc.env:HOME}\n", "mine"),
    "a value of 400 digits": (HEAD + f"seed: {'9' * 400}\n", "seed"),
    "a key of a thousand letters": (HEAD + f"{'k' * 1000}: 1\n", "kkk"),
    "an escape in a key": (HEAD + '"\\e[31mseed": 1\n', "seed"),
    "an interpolation of itself": (HEAD + "seed: ${seed}\n", "seed"),
    "an interpolation of a file": (HEAD + "model:\n  name: ${file:/etc/passwd}\n", "model.name"),
    "a list where a group is": (HEAD + "trainer: [1]\n", "mine"),
    "a number where a group is": (HEAD + "evaluator: 3\n", "evaluator"),
    "a target with an argument": (HEAD + "task:\n  _target_: lume_run.tasks.lume.LumeTask\n  _args_: [1]\n", "_args_"),
    "a target that is partial": (HEAD + "method:\n  _partial_: true\n", "_partial_"),
    "a target that converts": (HEAD + "task:\n  _convert_: all\n", "_convert_"),
    "a target by parts": (HEAD + "task:\n  _target_: lume_run.cli.main\n", "_target_"),
    "a target of a test": (HEAD + "method:\n  _target_: lume_run.pipeline.run.Run\n", "method"),
    "a launcher's own setting": (HEAD + "hydra:\n  launcher:\n    srun_args: ['--prolog=evil']\n", "srun_args"),
    "a mode of Hydra": (HEAD + "hydra:\n  mode: NOTHING\n", "NOTHING"),
    "help of Hydra": (HEAD + "hydra:\n  help:\n    template: ${oc.env:HOME}\n", "hydra.help"),
    "nothing at all": ("", "_global_"),
    "comments alone": ("# nothing\n", "_global_"),
}
RESPONSE = '{"id": "001qa0", "split": "forget", "subtask": "bios", "expected": "a", "output": "b"'
RESPONSES: dict[str, tuple[str, str]] = {
    "infinity": (RESPONSE + ', "logprob": Infinity}\n', "r.jsonl:1"),
    "a number beyond floats": (RESPONSE + ', "logprob": -1e999}\n', "r.jsonl:1"),
    "tokens in words": (RESPONSE + ', "tokens": "many"}\n', "r.jsonl:1"),
    "tokens below nothing": (RESPONSE + ', "tokens": -3}\n', "r.jsonl:1"),
    "a key twice": (RESPONSE + ', "output": "c"}\n', "r.jsonl:1"),
    "a row twice": ((RESPONSE + "}\n") * 2, "001qa0"),
    "an id of a number": (RESPONSE.replace('"001qa0"', "1") + "}\n", "r.jsonl:1"),
    "an ask of nobody": (RESPONSE + ', "ask": "nobody"}\n', "r.jsonl:1"),
    "a judge that is a list": (RESPONSE + ', "judge": ["a"]}\n', "r.jsonl:1"),
    "an expected answer of nothing": (RESPONSE.replace('"a"', "null") + "}\n", "r.jsonl:1"),
    "an array of rows": ("[" + RESPONSE + "}]\n", "r.jsonl"),
    "a line of 20 MB that is cut": (RESPONSE + ', "x": "' + "y" * 20_000_000, "r.jsonl:1"),
}


def cases() -> Iterator[Case]:
    """Plans over texts and recipes, scores of responses."""
    for name, (prepare, culprit) in FOLDERS.items():
        yield Case(
            name=f"texts: {name}",
            arguments=plan("task.forget=d"),
            names=[culprit],
            prepare=both(KEEP, SOUND_TEXT, prepare),
        )
    for name, prepare in FINE_FOLDERS.items():
        yield Case(
            name=f"texts: {name} are fine",
            arguments=plan("task.forget=d"),
            prepare=both(KEEP, SOUND_TEXT, prepare),
            accepted=True,
            needs_model=True,
        )
    for name, (content, culprit) in YAML.items():
        yield Case(
            name=f"recipe: {name}",
            arguments=["--config-dir", "conf", "experiment=mine", "--dry-run"],
            names=[culprit],
            prepare=both(recipe(content), EVIL_MODULE),
        )
    for name, (text, culprit) in RESPONSES.items():
        yield Case(
            name=f"responses: {name}, as written by others",
            arguments=["stages=[score]", "responses=r.jsonl", "logger=none"],
            names=[culprit],
            prepare=written("r.jsonl", text),
        )
    shadow = written("conf/method/npo.yaml", f"_target_: evil.Evil\n# {MARK}\n")
    yield Case(
        name="recipe: a method under the name of ours",
        arguments=["--config-dir", "conf", "method=npo", "--dry-run"],
        names=["npo"],
        prepare=both(shadow, EVIL_MODULE),
    )
    for group in ("method", "task", "model", "hydra/launcher", "experiment"):
        yield Case(
            name=f"recipe: a file in the place of the group {group}",
            arguments=["--config-dir", "conf", "methdo=npo", "--dry-run"],
            names=["methdo"],
            prepare=written(f"conf/{group}", "x"),
        )
