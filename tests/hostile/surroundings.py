"""Where a command runs: without a home, a console, room or memory, in a folder that is gone; and runs that are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .case import Case, Prepare
from .files import both, changed, copied, directory, fifo, link, removed, rows, truncated, written

RUN = 'exec "$@"'
FINE = {  # surroundings in which a plan must work: lines of the shell, variables
    "no HOME": ("unset HOME; " + RUN, {}),
    "a HOME that is not there": (RUN, {"HOME": "/nowhere/at/all"}),
    "a HOME that is a file": (RUN, {"HOME": "/dev/null"}),
    "a HOME that cannot be written": (RUN, {"HOME": "/proc"}),
    "no TMPDIR": (RUN, {"TMPDIR": "/nowhere/at/all"}),
    "ASCII": (RUN, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}),
    "an unknown language": (RUN, {"LANG": "xx_YY.UTF-9", "LC_ALL": "xx_YY.UTF-9"}),
    "a terminal of nobody": (RUN, {"TERM": "nobody", "COLUMNS": "wide", "LINES": "-3"}),
    "a console of one column": (RUN, {"COLUMNS": "1"}),
    "no PATH": (RUN, {"PATH": ""}),
    "64 open files": ("ulimit -n 64; " + RUN, {}),
    "no standard input": ("exec <&-; " + RUN, {}),
    "no standard error": ("exec 2>&-; " + RUN, {}),
    "no core files and little stack": ("ulimit -c 0; ulimit -s 512; " + RUN, {}),
    "a strict umask": ("umask 777; " + RUN, {}),
    "threads in words": (RUN, {"OMP_NUM_THREADS": "many"}),
    "warnings as errors": (RUN, {"PYTHONWARNINGS": "error"}),
    "assertions off": (RUN, {"PYTHONOPTIMIZE": "1"}),
    "a log level of nobody": (RUN, {"TRANSFORMERS_VERBOSITY": "loud", "LOGLEVEL": "loud"}),
    "GPUs that are not there": (RUN, {"CUDA_VISIBLE_DEVICES": "7,8"}),
    "a hub of nobody": (RUN, {"HF_HOME": "/dev/null/x", "HF_ENDPOINT": "not an address"}),
    "modules beside the command": (RUN, {"PYTHONPATH": "."}),
}
FATAL: dict[str, tuple[str, list[str], str]] = {  # lines of the shell, settings, what the refusal names
    "a folder that is gone": ("mkdir gone; cd gone; rmdir ../gone; " + RUN, ["--dry-run"], "working directory"),
    "a full disk": (
        "mkdir full; mount -t tmpfs -o size=64k none full || exit 2; cp /bin/ls full/ls 2>/dev/null; "
        '"$@"; code=$?; umount full; exit $code',
        ["debug=default", "logger=none", "output_dir=full/o"],
        "No space left",
    ),
    "a folder that cannot be written": (
        'mkdir ro; mount -t tmpfs -o ro none ro || exit 2; cd ro; "$@"; code=$?; cd ..; umount ro; exit $code',
        ["debug=default", "logger=none"],
        "output_dir",
    ),
    "too little memory for the libraries": ("ulimit -v 500000; " + RUN, ["debug=default", "logger=none"], "memory"),
    "no docstrings": ("export PYTHONOPTIMIZE=2; " + RUN, ["--dry-run"], "docstrings"),
    "files of at most 100 kB": (
        "ulimit -f 100; " + RUN,
        ["debug=default", "logger=none"],
        "File too large",
    ),
}
DAMAGES: dict[str, Prepare] = {
    "of empty files": both(written("report.json", ""), written("config.yaml", ""), written("manifest.json", "")),
    "of null": both(written("report.json", "null"), written("config.yaml", "null")),
    "of numbers": both(written("report.json", "3"), written("config.yaml", "3")),
    "with scores in words": changed("report.json", scores={"a": "b"}),
    "with scores in lists": changed("report.json", scores=[[1]]),
    "with a history of words": written("unlearned/history.jsonl", "{}\nnothing\n"),
    "with responses cut": truncated("responses.unlearned.jsonl", 0.5),
    "with responses that are a folder": both(
        removed("responses.unlearned.jsonl"), directory("responses.unlearned.jsonl")
    ),
    "with responses that are a pipe": both(removed("responses.unlearned.jsonl"), fifo("responses.unlearned.jsonl")),
    "with responses in a loop": both(
        removed("responses.unlearned.jsonl"), link("responses.unlearned.jsonl", "responses.unlearned.jsonl")
    ),
    "with other responses": rows("responses.unlearned.jsonl", {"a": 1}, [2], "3", "nothing"),
    "with an override that is none": written(".hydra/overrides.yaml", "- 3\n- {a: b}\n"),
    "in a name with marks": written("report.json", '{"name": "\\u001b[2J<script>alert(1)</script>", "subjects": {}}'),
}


def cases(run: Path) -> Iterator[Case]:
    """Plans that must work, runs that cannot, and reports over damaged runs."""
    for name, (shell, variables) in FINE.items():
        yield Case(
            name=f"surroundings: {name}",
            arguments=["--dry-run", "task.num_documents=2"],
            shell=shell,
            environment=variables,
            accepted=True,
            needs_model=True,
        )
    for name, (shell, arguments, culprit) in FATAL.items():
        yield Case(
            name=f"surroundings: {name}",
            arguments=arguments,
            shell=shell,
            names=[culprit],
            needs_model=True,
            code=1 if "files of at most" in name else 2,  # seen when the run is under way
        )
    yield Case(
        name="surroundings: no standard output",
        arguments=["--dry-run", "methdo=npo"],
        shell='"$@" >&-; code=$?; echo "-> $code"; exit $code',
        names=["2"],
    )
    yield Case(
        name="surroundings: a reader that leaves",
        arguments=["--help"],
        shell='"$@" | head -1; code=${PIPESTATUS[0]}; [ $code = 0 ] || [ $code = 141 ]',
        accepted=True,
    )
    yield Case(
        name="surroundings: two at once in one folder",
        arguments=["debug=default", "logger=none", "hydra.run.dir=r"],
        shell='"$@" >first 2>&1 & "$@" >second 2>&1; code=$?; wait $! && cat first second && exit $code',
        accepted=True,
        needs_model=True,
    )
    for name, damage in DAMAGES.items():
        prepare = both(copied(lambda: run, "outputs/good"), copied(lambda: run, "outputs/bad", damage))
        yield Case(
            name=f"report: a run {name}",
            program="report",
            arguments=["outputs"],
            prepare=prepare,
            accepted=True,
            needs_model=True,
        )
    repeats = {
        "a loop": both(link("r", "r")),
        "a pipe": fifo("r"),
        "an empty folder": directory("r"),
        "a run of empty files": both(directory("r"), written("r/config.yaml", "")),
        "a run of null": both(directory("r"), written("r/config.yaml", "null")),
        "a run of a list of runs": both(directory("r"), written("r/config.yaml", "- r\n")),
    }
    for name, prepare in repeats.items():
        yield Case(name=f"repeat: {name}", program="repeat", arguments=["r"], names=["r"], prepare=prepare)
    for name, prepare in {
        **repeats,
        "a run without a report": copied(lambda: run, "r", removed("report.json")),
    }.items():
        yield Case(
            name=f"publish: {name}",
            program="publish",
            arguments=["r", "--to=me/x", "--dry-run"],
            names=["r"],
            prepare=prepare,
        )
    for words in ([], ["--to"], ["r"], ["r", "--to=me/x", "--nope"], ["nowhere", "--to=me/x"], ["", "--to=me/x"]):
        yield Case(name=f"publish: {' '.join(words)!r}", program="publish", arguments=words)
