"""Claims of trials by processes on any number of machines that share only a directory.

A claim is a file ``NAME.000000`` in the folder of claims; the number is its generation, and the highest one is valid. A
free name is taken by creating the next generation, which the file system allows exactly one of several processes
(``link`` of a finished file, atomic on local disks and NFS). No file is ever renamed or written by another process than
its owner, so that a process with outdated information fails to create an existing file and cannot undo a claim.

An owner shows that it is alive by updating the time of its file. A claim is free when that time is too old; releasing
sets it to 1970. Times are those of the file system, compared with the time of a file created there just now, so the
clocks of the machines need not agree. A dead owner on this machine is detected without waiting.

This cannot exclude an owner that is suspended for longer (a sleeping laptop) and then continues; it detects the loss at
its next renewal and must stop.
"""

import contextlib
import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Owner:
    """A process that holds a claim."""

    host: str = "?"
    pid: int = 0
    machine: str = ""
    """Boot and process namespace: pids are comparable only if it is the same; empty if unknown."""
    started: int = 0
    """When the process started, in clock ticks since the boot: pids are reused, but not with the same start."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Claim:
    """A claim of this process."""

    path: Path
    following: Path
    """The next generation, which exists if the claim was lost."""


@dataclass(frozen=True)
class Held:
    """A claim of a process that seems to be alive."""

    owner: Owner
    renewed: float
    """Time of the file system of its last sign of life."""
    age: float
    """Seconds since then."""


def acquire(folder: Path, name: str, *, stale: float) -> Claim | Held:
    """Take ``name`` in ``folder``, or return who holds it.

    Args:
      folder: the folder of claims, the same for all; created when missing.
      name: may contain slashes.
      stale: seconds without a sign of life after which a claim is free.

    Raises:
      OSError: the folder cannot be written.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _announcement(path) as announcement:
        now = os.stat(announcement).st_mtime  # noqa: PTH116 - by descriptor or name alike
        while True:
            generation = _latest(path)
            held = _held(_file(path, generation), now=now, stale=stale) if generation is not None else None
            if held is not None:
                return held
            following = 0 if generation is None else generation + 1
            if _created(announcement, _file(path, following)):
                return Claim(_file(path, following), _file(path, following + 1))
            # another process was faster, or the listing of a network file system was outdated: try again


@contextlib.contextmanager
def waited(folder: Path, name: str, *, stale: float, tend: Callable[[], None] = lambda: None) -> Iterator[Claim]:
    """Hold ``name`` during a ``with`` block, after waiting for its owner; ``tend`` is called meanwhile."""
    while isinstance(got := acquire(folder, name, stale=stale), Held):
        tend()
        time.sleep(0.05)
    try:
        yield got
    finally:
        release(got)


def holder(folder: Path, name: str, *, stale: float) -> Held | None:
    """Who holds ``name``, by this machine's clock, without writing; None if it is free."""
    generation = _latest(folder / name)
    return None if generation is None else _held(_file(folder / name, generation), now=time.time(), stale=stale)


def renew(claim: Claim) -> bool:
    """Show that this process is alive; False if the claim was taken over, so that its work must stop."""
    if claim.following.exists():
        return False
    try:
        os.utime(claim.path)
    except FileNotFoundError:
        return False
    return True


def release(claim: Claim) -> None:
    """Release the name; it is free immediately."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(claim.path, (0, 0))


def _file(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.{generation:06d}")


def _latest(path: Path) -> int | None:
    """The highest generation that the folder lists."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except FileNotFoundError:
        return None
    start = f"{path.name}."
    found = [int(name[len(start) :]) for name in names if name.startswith(start) and name[len(start) :].isdigit()]
    return max(found, default=None)


def _held(path: Path, *, now: float, stale: float) -> Held | None:
    """The claim in a file, unless it is free."""
    try:
        # opening, unlike stat, makes a network file system query the server for the file's age
        with path.open("rb") as file:
            renewed, content = os.fstat(file.fileno()).st_mtime, file.read()
    except FileNotFoundError:
        return None
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError):
        owner = Owner()  # created a moment ago without links, and not yet written
    if now - renewed > stale or _dead(owner):
        return None
    return Held(owner, renewed, max(0.0, now - renewed))


def _dead(owner: Owner) -> bool:
    """Whether the owner ran on this machine and has ended; False if unknown."""
    here = _machine()
    if not here or owner.machine != here:
        return False
    return _start_of(owner.pid) != owner.started


def this_process() -> Owner:
    """The current process as an owner."""
    return Owner(socket.gethostname(), os.getpid(), _machine(), _start_of(os.getpid()) or 0)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # not Linux: owners are recognised only by their signs of life


def _start_of(pid: int) -> int | None:
    """When a process started, in ticks since the boot; None when it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # the second field is a name in parentheses that may contain anything; fields from the third on follow the last
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@contextlib.contextmanager
def _announcement(path: Path) -> Iterator[str]:
    """A private file of this process, complete and on disk, to be linked as the claim."""
    handle, name = tempfile.mkstemp(prefix=".taking-", dir=path.parent)
    try:
        os.fchmod(handle, 0o644)  # others who share the directory may read the owner
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(asdict(this_process())))
            file.flush()
            os.fsync(file.fileno())
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108


def _created(announcement: str, path: Path) -> bool:
    """Create ``path`` with the content of the announcement, unless it exists."""
    try:
        os.link(announcement, path)
    except FileExistsError:
        # a network file system may report the failure of a request that it repeated after success
        return os.stat(announcement).st_nlink > 1 and os.path.samefile(announcement, path)  # noqa: PTH116, PTH121
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # a file system without links: equally exclusive, but empty for a moment
        try:
            with path.open("x") as file:
                file.write(json.dumps(asdict(this_process())))
        except FileExistsError:
            return False
    return True
