"""Programs as two processes with four simulated devices each."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def two_processes(
    program: str, arguments: Callable[[str, int], Sequence[str]], *, seconds: int = 150
) -> tuple[list[int], list[str]]:
    """Exit codes and outputs of both.

    Args:
      program: a file of this folder.
      arguments: (HOST:PORT of the coordinator, index of the process) -> its arguments.
      seconds: in which each must end.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4"),
        "PYTHONPATH": str(HERE.parents[1]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / program), *arguments(address, index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=seconds)[0] for process in processes]
    return [process.returncode for process in processes], said
