"""Stands for Python where a test wants ranks of a run to be warm: has the server of warm.py fork a module's process.

Drivers start torchrun, that its ranks, joblib its workers, submitit its jobs by `sys.executable -m MODULE ...`.
This program takes that place: it hands over arguments, environment, folder and open files, passes signals on, and ends
as the process does; that one is killed where this one is. What WARM_VARIABLE does not match becomes a Python that
starts anew.

Started as `python -IS warm_python.py ...`: it imports little, in some hundredths of a second.
"""

import json
import os
import re
import signal
import socket
import sys
import threading

WARM_VARIABLE = "LUME_TESTS_WARM"  # a regular expression of the commands whose processes are to be warm
SERVER_VARIABLE = "LUME_TESTS_SERVER"  # the server's socket
LENGTH_BYTES = 8  # of what comes before a message: how long it is
PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}


def send(connection: socket.socket, request: dict, descriptors: list[int]) -> None:
    """Ask the server for a process with these standard streams."""
    text = json.dumps(request).encode()
    socket.send_fds(connection, [len(text).to_bytes(LENGTH_BYTES, "big")], descriptors)
    connection.sendall(text)


def receive(connection: socket.socket, length: int) -> bytes:
    """So many bytes; raises EOFError where the other side has ended."""
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def warm_name(pid: int) -> str:
    """The name, as the system shows it, of the warm process behind a process of this program."""
    return f"warm-{pid}"


def open_files() -> list[int]:
    """Descriptors of files that this process was given: standard streams first."""
    return [0, 1, 2, *(number for number in sorted(map(int, os.listdir("/proc/self/fd"))) if is_open(number))]  # noqa: PTH208


def is_open(number: int) -> bool:
    """Whether a descriptor beyond the standard streams is one of an open file."""
    try:
        return number > 2 and bool(os.fstat(number))
    except OSError:  # of the listing itself
        return False


def pass_on_signals(pid: int) -> None:
    """Pass on what this process is sent, as long as it lives."""
    while True:
        os.kill(pid, signal.sigwait(PASSED_ON))


def main(arguments: list[str]) -> None:
    """Be the process that these arguments of Python start."""
    words = [word for word in arguments if word != "-u"]
    if words[0] != "-m" or not re.search(os.environ.get(WARM_VARIABLE, "$^"), " ".join(words)):
        os.execv(sys.executable, [sys.executable, *arguments])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    files = open_files()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(os.environ[SERVER_VARIABLE])
    request = {"module": words[1], "arguments": words[2:], "cwd": os.getcwd()}  # noqa: PTH109  pathlib would take longer than all the rest
    request |= {"env": dict(os.environ), "blocked": sorted(blocked), "files": files, "bound_to": os.getpid()}
    send(connection, request, files)
    pid = int.from_bytes(receive(connection, LENGTH_BYTES), "big")
    threading.Thread(target=pass_on_signals, args=(pid,), daemon=True).start()
    code = int.from_bytes(receive(connection, LENGTH_BYTES), "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
