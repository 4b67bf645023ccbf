"""A store that is damaged between two starts, variables of the environment, and signals while a command begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .case import Case, Prepare

AGAIN = ["debug=default", "logger=none", "output_dir=o"]
Damage = Callable[[Path], object]


def kept(run: Path, kind: str, damage: Damage) -> Prepare:
    """The run's own folder of outputs as `o`, with one entry of its store damaged, and the run without its report."""

    def prepare(folder: Path) -> None:
        shutil.copytree(run.parent, folder / "o", symlinks=True)
        shutil.rmtree(folder / "o" / run.name)
        entry = next(path for path in sorted((folder / "o" / "store" / kind).iterdir()) if path.is_dir())
        damage(entry)

    return prepare


def replaced(name: str, content: bytes) -> Damage:
    """A file of other content."""
    return lambda entry: (entry / name).write_bytes(content)


def zeroed(name: str) -> Damage:
    """A file of the same size that holds zeros behind its first kilobyte."""

    def damage(entry: Path) -> None:
        data = (entry / name).read_bytes()
        (entry / name).write_bytes(data[:1024] + bytes(len(data) - 1024))

    return damage


def instead(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else in the place of a file."""

    def damage(entry: Path) -> None:
        (entry / name).unlink()
        make(entry / name)

    return damage


def locked(entry: Path, make: Callable[[Path], object]) -> None:
    """Something else in the place of the entry's lock."""
    lock = entry.with_name(f"{entry.name}.lock")
    lock.unlink()
    make(lock)


DONE = "DONE.json"
STORE: dict[str, tuple[str, Damage]] = {
    "a target whose record is empty": ("target", replaced(DONE, b"")),
    "a target whose record is a list": ("target", replaced(DONE, b"[]")),
    "a target whose record is in UTF-16": ("target", replaced(DONE, "{}".encode("utf-16"))),
    "a target whose record is deep": ("target", replaced(DONE, b"[" * 100_000)),
    "a target whose record names a place outside": (
        "target",
        replaced(DONE, b'{"files": {"../../x": {"bytes": 1, "sha256": "0"}}}'),
    ),
    "a target whose record has sizes in words": (
        "target",
        replaced(DONE, b'{"files": {"config.json": {"bytes": "many", "sha256": 3}}}'),
    ),
    "a target whose record is a pipe": ("target", instead(DONE, os.mkfifo)),
    "a target whose record is a folder": ("target", instead(DONE, os.mkdir)),
    "a target whose record is a loop": ("target", instead(DONE, lambda path: path.symlink_to(path.name))),
    "a target of zeros": ("target", zeroed("model.safetensors")),
    "a target without weights": ("target", lambda entry: (entry / "model.safetensors").unlink()),
    "a target whose weights are a pipe": ("target", instead("model.safetensors", os.mkfifo)),
    "a target whose tokenizer is another": ("target", replaced("tokenizer.json", b"{}")),
    "a target with a file more": (
        "target",
        replaced("pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'touch CODE_RAN'\ntR."),
    ),
    "a reference that is cut": ("reference", lambda entry: os.truncate(entry / "logps.safetensors", 100)),
    "a reference with other lengths": ("reference", replaced("lengths.json", b"{}")),
    "answers that are cut": ("responses", lambda entry: os.truncate(entry / "responses.jsonl", 200)),
    "answers that are binary": ("responses", replaced("responses.jsonl", b"\xff\x00" * 500)),
    "answers that are a device": ("responses", instead("responses.jsonl", lambda path: path.symlink_to("/dev/zero"))),
    "a base that is a file": ("base", lambda entry: (shutil.rmtree(entry), entry.write_bytes(b"x"))),
    "a base that is a link to nowhere": ("base", lambda entry: (shutil.rmtree(entry), entry.symlink_to("gone"))),
    "a base that is a pipe": ("base", lambda entry: (shutil.rmtree(entry), os.mkfifo(entry))),
    "a base whose lock is a folder": (
        "base",
        lambda entry: (shutil.rmtree(entry), locked(entry, os.mkdir)),
    ),
    "a base whose lock is a pipe": (
        "base",
        lambda entry: (shutil.rmtree(entry), locked(entry, os.mkfifo)),
    ),
}
ENVIRONMENTS: dict[str, dict[str, str]] = {  # what must not keep a plan from working
    "a hub that is maybe offline": {"HF_HUB_OFFLINE": "maybe", "TRANSFORMERS_OFFLINE": "maybe"},
    "a token of the hub with a line end": {"HF_TOKEN": "hf_a\nb"},
    "a cache in a device": {
        "HF_HUB_CACHE": "/dev/null",
        "HF_DATASETS_CACHE": "/dev/null",
        "XDG_CACHE_HOME": "/dev/null",
    },
    "threads below nothing": {"OMP_NUM_THREADS": "-3", "MKL_NUM_THREADS": "x", "OPENBLAS_NUM_THREADS": "x"},
    "tokenizers in words": {"TOKENIZERS_PARALLELISM": "maybe"},
    "devices in words": {"CUDA_VISIBLE_DEVICES": "all of them", "PYTORCH_CUDA_ALLOC_CONF": "nothing:x"},
    "a debugging level of nobody": {"TORCH_DISTRIBUTED_DEBUG": "loud", "NCCL_DEBUG": "loud"},
    "a home of matplotlib": {"MPLCONFIGDIR": "/dev/null/x", "MPLBACKEND": "nobody"},
    "full errors of Hydra": {"HYDRA_FULL_ERROR": "1"},
    "a colour of nobody": {"NO_COLOR": "", "FORCE_COLOR": "9", "CLICOLOR": "x", "COLUMNS": "-5"},
    "a proxy of nobody": {"HTTPS_PROXY": "not a proxy", "HTTP_PROXY": "::::"},
    "certificates of nobody": {"SSL_CERT_FILE": "/dev/null", "REQUESTS_CA_BUNDLE": "/nowhere"},
    "a startup file": {"PYTHONSTARTUP": "evil.py", "PYTHONINSPECT": ""},
    "a time zone of nobody": {"TZ": "Nowhere/Atall"},
    "bytes that are no text": {"LUME_NOTE": os.fsdecode(b"\xff\xfe")},
    "a key of W&B that is none": {"WANDB_API_KEY": "short", "WANDB_MODE": "offline"},
    "a folder of W&B that is none": {"WANDB_DIR": "/dev/null/x", "WANDB_CONFIG_DIR": "/dev/null/x"},
    "a program that records calls": {"PYTHONPROFILEIMPORTTIME": ""},
}
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a world of nothing": ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE"),
    "a world below nothing": ({"WORLD_SIZE": "-2", "RANK": "0"}, "WORLD_SIZE"),
    "a world without ranks": ({"WORLD_SIZE": "2"}, "WORLD_SIZE"),
    "a rank below nothing": ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK"),
    "a world of fractions": ({"WORLD_SIZE": "1.5", "RANK": "0"}, "WORLD_SIZE"),
    "nodes below nothing": ({"SLURM_JOB_ID": "1", "SLURM_NNODES": "-1"}, "SLURM_NNODES"),
    "a server of W&B that is no address": ({"WANDB_BASE_URL": "nowhere", "WANDB_MODE": "online"}, "WANDB_BASE_URL"),
    "a project of W&B that is none": ({"WANDB_PROJECT": "a/b"}, "WANDB_PROJECT"),
    "a server of W&B by file": ({"WANDB_BASE_URL": "file:///etc/passwd", "WANDB_MODE": "online"}, "WANDB_BASE_URL"),
}
SIGNALS = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "PIPE")
MOMENTS = (0.1, 0.4, 0.8, 1.5, 2.5)  # seconds after the start


def cases(run: Path) -> Iterator[Case]:
    """Runs that mend their store, plans in strange environments, and ends by signals."""
    for name, (kind, damage) in STORE.items():
        lock = "lock" in name
        yield Case(
            name=f"store: {name}",
            arguments=AGAIN,
            names=[".lock"] if lock else [],
            prepare=kept(run, kind, damage),
            accepted=not lock,
            needs_model=True,
        )
    for name, variables in ENVIRONMENTS.items():
        yield Case(
            name=f"environment: {name} is fine",
            arguments=["--dry-run", "task.num_documents=2"],
            environment=variables,
            accepted=True,
            needs_model=True,
        )
    for name, (variables, culprit) in REFUSED.items():
        yield Case(
            name=f"environment: {name}",
            arguments=["debug=default", "logger=wandb"],
            names=[culprit],
            environment=variables,
        )
    for number, name in enumerate(SIGNALS):
        for moment in MOMENTS[number % 2 :: 2]:
            # an end by the signal itself, or by a word of ours; never a traceback
            yield Case(
                name=f"signal: {name} after {moment} s",
                arguments=["debug=default", "logger=none"],
                shell=f'"$@" & p=$!; sleep {moment}; kill -{name} $p; wait $p; echo "ended with $?"; exit 0',
                accepted=True,
                needs_model=True,
            )
