"""The server of warm processes: imports all that commands need, and forks a process for each request of warm.py.

Arguments: SOCKET PID. It ends when the process with that number has ended.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import importlib.util
import json
import multiprocessing
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.lookups import remember_lookups
from helpers.warm_python import LENGTH_BYTES, WARM_VARIABLE, receive, warm_name

SECONDS_BETWEEN_LOOKS = 1.0
MOST_FILES = 200  # that a process is given
ABOVE = 1000  # a descriptor from which on none is in use
LIBRARIES = (
    "bitsandbytes",
    "datasets",
    "deepspeed",
    "hydra.main",
    "joblib",
    "matplotlib.pyplot",
    "peft",
    "rouge_score.rouge_scorer",
    "scipy.stats",
    "sklearn.metrics",
    "torch.distributed.run",
    "transformers.models.llama.modeling_llama",
    "transformers.models.olmo.modeling_olmo",
    "wandb",
)


def import_all() -> None:
    """What commands, drivers and ranks import on their way, or look up once: our modules, Hydra's plugins, a config."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks once
    for name in LIBRARIES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)

    import lume_run
    from lume_run.config.hydra_source import check_files, list_families, remember_choices
    from lume_run.config.overrides import compose, conf_dir
    from lume_run.sweeps.plugins import prefer_own_launchers
    from lume_run.tasks.builtin.generator import documents_of_no_side

    for module in pkgutil.walk_packages(lume_run.__path__, "lume_run."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    prefer_own_launchers()
    list_families()
    check_files()
    remember_choices()
    compose([], [conf_dir()])
    documents_of_no_side()
    compile_names_of_weights()


def compile_names_of_weights() -> None:
    """A thousand regular expressions that the library compiles as it loads or saves its first model."""
    mapping = importlib.import_module("transformers.conversion_mapping")
    mapping.get_checkpoint_conversion_mapping("olmo")


def serve(path: str, session: int) -> None:
    """Import, then fork a process for each connection; end when the process `session` has ended."""
    import_all()
    remember_lookups()
    gc.collect()
    gc.freeze()  # the library collects garbage now and then, which over all imported modules takes 0.4 s
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([listener], [], [], SECONDS_BETWEEN_LOOKS)
        if not readable:
            if not Path(f"/proc/{session}").exists():
                return
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            tend(connection)  # never returns in the command's process but by its own end
            return
        connection.close()
        while True:  # those that have ended
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break


def tend(connection: socket.socket) -> None:
    """In a process of its own: start the command, wait for it, say how it ended."""
    length, descriptors, _, _ = socket.recv_fds(connection, LENGTH_BYTES, MOST_FILES)
    request = json.loads(receive(connection, int.from_bytes(length, "big")))
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(pid.to_bytes(LENGTH_BYTES, "big"))
    if "bound_to" in request:
        kill_with(connection, pid)
    _, status, usage = os.wait4(pid, 0)
    with suppress(OSError):  # nobody wants to know any more
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(LENGTH_BYTES, "big", signed=True))
        connection.sendall(int(1000 * (usage.ru_utime + usage.ru_stime)).to_bytes(LENGTH_BYTES, "big"))
    os._exit(0)


def kill_with(connection: socket.socket, pid: int) -> None:
    """Return when a process has ended, which is killed where who asked for it has ended."""
    ended = os.pidfd_open(pid)
    readable, _, _ = select.select([connection, ended], [], [])
    if ended not in readable:
        os.kill(pid, signal.SIGKILL)


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Turn this process into the command: its files, folder, environment and arguments; then run and end."""
    os.setsid()
    take_files(descriptors, request.get("files", (0, 1, 2)))
    if "bound_to" in request:
        Path("/proc/self/comm").write_text(warm_name(request["bound_to"]), encoding="ascii")
    sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", errors="backslashreplace")  # as Python has it
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["lume-run", *request["arguments"]]
    read_environment(request["cwd"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request.get("blocked", ()))
    if not hasattr(sys.modules.get(request["module"]), "__path__"):
        sys.modules.pop(request["module"], None)  # it runs anew, as __main__
    code = 1
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    end(code)


def end(code: int) -> None:
    """End as Python does, but for taking apart all modules: half a second, in memory that is copied for it.

    Threads are waited for, what is registered to run at exit runs, and what was printed is written.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:  # nobody reads it any more
            code = 120
    os._exit(code & 0xFF)


def take_files(descriptors: list[int], numbers: Sequence[int]) -> None:
    """Have these open files under the numbers that they had where they come from."""
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, ABOVE) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(kept, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def read_environment(folder: str) -> None:
    """What Python itself reads of the environment as it starts; where WARM_VARIABLE is set, who starts others."""
    sys.path[:1] = [] if os.environ.get("PYTHONSAFEPATH") else [folder]
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in named if path and path not in sys.path]
    warnings._processoptions(list(filter(None, os.environ.get("PYTHONWARNINGS", "").split(","))))  # type: ignore[attr-defined]
    if WARM_VARIABLE in os.environ:
        sys.executable = os.environ["PYTHON_EXEC"]
        multiprocessing.set_executable(sys.executable)  # joblib asks it


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
