"""Who is running what, among processes of any number of machines that share nothing but a directory.

A claim is a file ``NAME.000000`` in the folder of claims; the number is its generation, and the highest one holds. To
take a name that nobody holds is to create the next generation, which the file system lets exactly one of several takers
do (``link`` of a finished file, atomic on local disks and NFS alike). No file is ever renamed, or written by another
than its owner, so that a taker who looked too long ago fails to create what exists already, and cannot undo a claim.

An owner shows that it lives by renewing the time of its file. A claim is free when that time is older than a number of
seconds, which releasing makes it be at once (it is set to 1970). Times are those of the file system, compared with the
time of a file created there just now: clocks of the machines need not agree. An owner on this machine that no longer
runs is known to be dead without waiting.

What this cannot exclude is an owner that stands still for longer than that (a laptop asleep) and then goes on; it
learns of its loss at its next renewal and must stop then.
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
    """Boot and process namespace: only where it is the same does a pid mean the same; empty where unknown."""
    started: int = 0
    """When the process started, in clock ticks since the boot: a pid is used again, but not with the same start."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Claim:
    """A claim of this process."""

    path: Path
    following: Path
    """The next generation, which exists when the claim was lost."""


@dataclass(frozen=True)
class Held:
    """A claim of a process that seems to be alive."""

    owner: Owner
    renewed: float
    """Time of the file system at which it last showed life."""
    age: float
    """Seconds since then."""


def acquire(folder: Path, name: str, *, stale: float) -> Claim | Held:
    """Take ``name`` in ``folder``, or say who holds it.

    Args:
      folder: the folder of claims, the same for all; created when missing.
      name: may have slashes.
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
            # another taker was faster, or the listing of a network file system was old: look again


@contextlib.contextmanager
def waited(folder: Path, name: str, *, stale: float, tend: Callable[[], None] = lambda: None) -> Iterator[Claim]:
    """Hold ``name`` for the time of a ``with``, after waiting for whoever has it; ``tend`` is called meanwhile."""
    while isinstance(got := acquire(folder, name, stale=stale), Held):
        tend()
        time.sleep(0.05)
    try:
        yield got
    finally:
        release(got)


def holder(folder: Path, name: str, *, stale: float) -> Held | None:
    """Who holds ``name``, by this machine's clock, writing nothing; None where nobody does."""
    generation = _latest(folder / name)
    return None if generation is None else _held(_file(folder / name, generation), now=time.time(), stale=stale)


def renew(claim: Claim) -> bool:
    """Show that this process lives; False when the claim was taken over, so that its work must stop."""
    if claim.following.exists():
        return False
    try:
        os.utime(claim.path)
    except FileNotFoundError:
        return False
    return True


def release(claim: Claim) -> None:
    """Give the name back; it is free at once."""
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
        # opening, unlike stat alone, makes a network file system ask the server how old the file is
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
    """Whether the owner ran on this machine and does not any more; False where that cannot be told."""
    here = _machine()
    if not here or owner.machine != here:
        return False
    return _start_of(owner.pid) != owner.started


def this_process() -> Owner:
    """The process that asks, as an owner."""
    return Owner(socket.gethostname(), os.getpid(), _machine(), _start_of(os.getpid()) or 0)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # no Linux: owners are judged by their signs of life alone


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
    """A file of this process's own, complete and on the disk, to be linked as the claim."""
    handle, name = tempfile.mkstemp(prefix=".taking-", dir=path.parent)
    try:
        os.fchmod(handle, 0o644)  # others who share the directory may read who is at work
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
        # the answer of a network file system may be that to a request repeated after it had succeeded
        return os.stat(announcement).st_nlink > 1 and os.path.samefile(announcement, path)  # noqa: PTH116, PTH121
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # a file system without links: as exclusive, but empty for a moment
        try:
            with path.open("x") as file:
                file.write(json.dumps(asdict(this_process())))
        except FileExistsError:
            return False
    return True
