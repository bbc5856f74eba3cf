"""``python -m vision.ablation.attached PARENT CORES COMMAND ...``: become COMMAND, but not for longer than the parent.

A runner that is killed outright cannot stop its trials. On Linux the kernel does (``PR_SET_PDEATHSIG``): they get
SIGTERM, save, and leave their work directories to the next owner of the claims. The setting is kept across ``exec``, so
that there is no process between the runner and its trial. Has few imports, since every trial starts with it.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def become(parent: int, cores: str, command: list[str]) -> None:
    """Replace this process by ``command``; returns only if the parent no longer exists.

    Args:
      parent: process id of the runner.
      cores: the cores to run on, such as ``0,2``; empty for all.
      command: program and arguments.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if cores:
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if os.getppid() != parent:
        return  # it died before the signal was set
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    sys.exit(75)
