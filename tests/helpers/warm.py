"""A server that has imported what `lume-run` needs, and forks a process for each command: no test waits for imports.

A process that starts anew spends some seconds of processor time on imports; a forked one is the same program a moment
after them: its own process with its own environment, folder, standard streams and exit code, to be signalled and killed
as any other. Tests that count what is imported, or that show the command itself, start it anew. The server itself is
warm_server.py.
"""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from helpers.shared import FOLDER_VARIABLE, ROOT, TESTS, with_helpers
from helpers.warm_python import LENGTH_BYTES, SERVER_VARIABLE, WARM_VARIABLE, receive, send, warm_name
from lume_run.launch.spawn import free_port

SESSION_VARIABLE = "LUME_TESTS_SESSION"  # the process that the server ends with
READ_ON_IMPORT = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")  # where set, rich takes no other value later


class Ended(subprocess.CompletedProcess[str]):
    """How a command ended; `seconds` of processor time, of it and of the processes it waited for, without imports."""

    def __init__(self, arguments: list[str], code: int, out: str, err: str, *, seconds: float) -> None:
        super().__init__(arguments, code, out, err)
        self.seconds = seconds


class Process:
    """A warm process that runs, with what tests use of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, arguments: list[str]) -> None:
        self.connection, self.arguments = connection, arguments
        self.pid = int.from_bytes(receive(connection, LENGTH_BYTES), "big")
        self.returncode: int | None = None
        self.seconds = 0.0  # of processor time, once it has ended

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            self._receive_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        if self.returncode is None:
            if not select.select([self.connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
            self._receive_end()
        assert self.returncode is not None
        return self.returncode

    def _receive_end(self) -> None:
        self.returncode = int.from_bytes(receive(self.connection, LENGTH_BYTES), "big", signed=True)
        self.seconds = int.from_bytes(receive(self.connection, LENGTH_BYTES), "big") / 1000
        self.connection.close()

    def send_signal(self, number: int) -> None:
        """Signal it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The server of all test processes of a session, in a folder of theirs; it ends with the first of them."""

    def __init__(self, folder: Path, session: int) -> None:
        self.path = str(folder / "socket")
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not Path(self.path).exists():
                self._start(session)

    def _start(self, session: int) -> None:
        environment = {**with_helpers(), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        for name in READ_ON_IMPORT:
            environment.pop(name, None)
        command = [sys.executable, "-m", "helpers.warm_server", self.path, str(session)]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the server of warm processes did not start")

    def start(
        self, module: str, arguments: list[str], *, cwd: Path, env: Mapping[str, str], out: IO[bytes], err: IO[bytes]
    ) -> Process:
        """What `subprocess.Popen([python, -m, module, *arguments], ..., start_new_session=True)` would return."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.path)
        request = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": dict(env)}
        with Path(os.devnull).open("rb") as silence:
            send(connection, request, [silence.fileno(), out.fileno(), err.fileno()])
        return Process(connection, arguments)


@cache
def server() -> Server:
    """Started when a test of the session first wants it."""
    return Server(Path(os.environ[FOLDER_VARIABLE]), int(os.environ[SESSION_VARIABLE]))


def rank_variables_of_runs(commands: str = r"lume_run\.pipeline\.rank") -> dict[str, str]:
    """Variables under which warm drivers have ranks, and their torchrun, from the server.

    `commands` is a regular expression of the command lines of Python for which that holds; others start anew.
    """
    return {WARM_VARIABLE: commands, SERVER_VARIABLE: server().path, "PYTHON_EXEC": str(warm_python())}


def lume_run_in(folder: Path) -> Path:
    """A folder for PATH, in which the command `lume-run` is a warm process."""
    folder.mkdir(exist_ok=True)
    path = folder / "lume-run"
    path.write_text(f'#!/bin/sh\nexec {warm_python()} -m lume_run.cli "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return folder


def behind(pids: Sequence[int]) -> list[int]:
    """The warm processes behind processes that stand for Python."""
    names = {warm_name(pid) for pid in pids}
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if name_in(path) in names]


def name_in(path: Path) -> str:
    """A process's name; empty where it has ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def warm_python() -> Path:
    """A program that takes the place of Python, see warm_python.py."""
    path = Path(os.environ[FOLDER_VARIABLE]) / "python"
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            program = TESTS / "helpers" / "warm_python.py"
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {program} "$@"\n', encoding="utf-8")
            path.chmod(0o755)
    return path


def worker() -> str:
    """A program that takes the place of Python where pytest-xdist starts test processes: they come with all imports."""
    path = Path(os.environ[FOLDER_VARIABLE]) / "worker"
    variables = {WARM_VARIABLE: r"helpers\.worker", SERVER_VARIABLE: server().path, "PYTHON_EXEC": sys.executable}
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    line = " ".join([*words, "exec", str(warm_python()), "-m", "helpers.worker", '"$@"'])
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def start(*arguments: str, module: str, cwd: Path, log: IO[bytes], env: Mapping[str, str] = os.environ) -> Process:
    """Start a module's command line in a warm process that writes all it says into `log`."""
    return server().start(module, list(arguments), cwd=cwd, env=env, out=log, err=log)


def run(
    *arguments: str, module: str = "lume_run.cli", cwd: Path, env: Mapping[str, str] = os.environ, timeout: float = 300
) -> Ended:
    """Run a module's command line to its end in a warm process, its output captured as text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = server().start(module, list(arguments), cwd=cwd, env=env, out=out, err=err)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        texts = [(file.seek(0), file.read().decode("utf-8", errors="replace"))[1] for file in (out, err)]
    return Ended(list(arguments), code, *texts, seconds=process.seconds)


def run_together(
    *arguments: str, module: str, log: Path, environments: Sequence[Mapping[str, str]], timeout: float = 600
) -> None:
    """Run a module once in each environment, all at once; fails with the end of the log where one of them does."""
    deadline = time.monotonic() + timeout
    with log.open("ab") as file:
        processes = [start(*arguments, module=module, cwd=ROOT, log=file, env=env) for env in environments]
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            if any(process.returncode for process in processes):
                break
            time.sleep(0.05)
        assert all(process.returncode == 0 for process in processes), log.read_text("utf-8", "replace")[-4000:]
    finally:
        for process in processes:
            process.kill()


def rank_variables(count: int) -> list[dict[str, str]]:
    """By rank, the variables in which so many ranks find each other, as torchrun gives them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
