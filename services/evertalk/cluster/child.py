"""One process of a local cluster: spawn behind the guard, wait until it is ready, signal its group, see it end."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from evertalk.cluster import damage, guard
from evertalk.cluster.ports import port_is_free
from evertalk.cluster.verbs import ClusterError, ProcessFact

_POLL_S = 0.1
_LOG_LINES = 20
_LOG_BYTES = 16 * 1024

#: What a process says when asked how it is: "" if it is ready, else what is missing.
Probe = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a process is made of. `ports`: what it listens on; `disks`: directories it stores into."""

    name: str
    kind: str  # redis | node | replicator | wan
    region: str
    address: str
    ports: Sequence[int]
    command: Sequence[str]
    env: Mapping[str, str]
    directory: Path
    log: Path
    disks: Sequence[Path]
    probe: Probe
    start_timeout_s: float
    stop_timeout_s: float


class Child:
    """A process that can be killed, stopped, resumed and started again on the same ports and disks.

    Args:
        spec: what to run.
        pipe: read end of the pipe that the guard watches, -1 to let the kernel do it.
        changed: called when a process id has come or gone.
    """

    def __init__(self, spec: Spec, pipe: int, changed: Callable[[], None]) -> None:
        self.spec = spec
        self._pipe = pipe
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._ended_by_us = False
        self._starting = asyncio.Lock()

    @property
    def name(self) -> str:
        """Unique in the cluster."""
        return self.spec.name

    @property
    def alive(self) -> bool:
        """It runs, or is stopped."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Process id, which is also its group's; None if it is not alive."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def fell(self) -> str:
        """How it ended, if nobody asked it to; else ""."""
        if self._process is None or self.alive or self._ended_by_us:
            return ""
        return f"{self.name} ended by itself with {_exit_text(self._process.returncode)}"

    def check(self) -> None:
        """Nothing if it lives.

        Raises:
            ClusterError: it ended.
        """
        if self._process is not None and not self.alive:
            raise ClusterError(self._why(f"ended with {_exit_text(self._process.returncode)}"))

    def fact(self) -> ProcessFact:
        """For cluster.json."""
        spec = self.spec
        return ProcessFact(spec.name, spec.kind, spec.region, spec.address, self.pid, str(spec.log))

    async def start(self, lose_disks: bool = False, wait: bool = True) -> None:
        """Run it, on the same ports as ever; nothing if it is alive.

        Raises:
            ClusterError: a port is taken, it ended, or it was not ready in time.
        """
        async with self._starting:
            if lose_disks:
                await self.lose_disks()
            if not self.alive:
                await self._spawn()
        if wait:
            await self._until_ready()

    async def kill(self) -> None:
        """SIGKILL to its whole group; returns when it is gone."""
        self.send(signal.SIGKILL)
        await self.gone()

    async def stop(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        self.send(signal.SIGSTOP)
        await self.stopped()

    async def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    async def terminate(self) -> None:
        """SIGTERM, and SIGKILL after stop_timeout_s."""
        await terminate([self], self.spec.stop_timeout_s)

    async def lose_disks(self) -> None:
        """Delete what it stored.

        Raises:
            ClusterError: it is alive.
        """
        if self.alive:
            raise ClusterError(f"{self.name} is alive: kill it before its disks are lost")
        for disk in self.spec.disks:
            await asyncio.to_thread(_empty, disk)

    async def damage(self, way: str, seed: int) -> str:
        """Damage its disks in one of `damage.WAYS`; a sentence that says what was done.

        Raises:
            ClusterError: it is alive, or there is nothing to damage.
        """
        if self.alive and way not in damage.HARMLESS:
            raise ClusterError(f"{self.name} is alive: kill it before its disks are damaged")
        try:
            done = [await asyncio.to_thread(damage.do, way, disk, seed) for disk in self.spec.disks]
        except (OSError, KeyError) as error:
            raise ClusterError(f"{way} cannot be done to {self.name}: {error!r}") from error
        return f"{self.name}: {'; '.join(done)}"

    def fill_disk(self) -> None:
        """No file of it may grow beyond the largest it has now (write-ahead logs apart, they come and go).

        Raises:
            ClusterError: it is dead, or this is not Linux.
        """
        sizes = [
            path.stat().st_size
            for disk in self.spec.disks
            for path in disk.rglob("*")
            if path.is_file() and not path.name.endswith(("-wal", "-shm"))
        ]
        self._limit_files(max(sizes, default=0))

    def free_disk(self) -> None:
        """Files may grow again; nothing if it is dead."""
        if self.pid is not None:
            self._limit_files(-1)

    def _limit_files(self, size: int) -> None:
        if sys.platform != "linux" or self.pid is None:
            raise ClusterError(f"the disk of {self.name} cannot be filled: it is dead, or this is not Linux")
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))

    def send(self, number: signal.Signals) -> None:
        """Signal its process group; nothing if it is not alive."""
        if self._process is not None and self.alive:
            self._ended_by_us = self._ended_by_us or number in (signal.SIGKILL, signal.SIGTERM)
            with suppress(ProcessLookupError):  # it ended, and we have not heard yet
                os.killpg(self._process.pid, number)

    async def gone(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()
            self._changed()

    async def stopped(self) -> None:
        """Wait until it has stopped or ended."""
        if self.pid is not None and hasattr(os, "waitid"):
            with suppress(ChildProcessError):  # it ended, and asyncio has reaped it
                await asyncio.to_thread(os.waitid, os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    async def _spawn(self) -> None:
        for port in self.spec.ports:
            if not port_is_free(port):
                raise ClusterError(f"{self.name} cannot start: its port {port} is taken by another process")
        launcher = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(self._pipe)]
        with _append_to(self.spec.log) as log:
            self._ended_by_us = False
            self._process = await asyncio.create_subprocess_exec(
                *launcher,
                *self.spec.command,
                env=dict(self.spec.env),
                cwd=self.spec.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is the controller's business
                pass_fds=[self._pipe] if self._pipe >= 0 else [],
            )
        self._changed()

    async def _until_ready(self) -> None:
        missing = "nothing"
        try:
            async with asyncio.timeout(self.spec.start_timeout_s):
                while True:
                    self.check()
                    missing = await self.spec.probe()
                    if not missing:
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            why = f"was not ready after {self.spec.start_timeout_s:g} s ({missing})"
            raise ClusterError(self._why(why)) from error

    def _why(self, what: str) -> str:
        lines = last_lines(self.spec.log)
        return f"{self.name} {what}; the end of {self.spec.log}:\n{lines or '(empty)'}"


async def terminate(children: Iterable[Child], timeout_s: float) -> None:
    """An orderly end of all at once: SIGTERM (SIGCONT for stopped ones), then SIGKILL after the timeout."""
    live = [child for child in children if child.alive]
    for child in live:
        child.send(signal.SIGTERM)
        child.send(signal.SIGCONT)
    with suppress(TimeoutError):  # who is still there then is killed
        async with asyncio.timeout(timeout_s):
            for child in live:
                await child.gone()
    await kill(live)


async def kill(children: Iterable[Child]) -> None:
    """SIGKILL all in one go, then see them gone."""
    live = [child for child in children if child.alive]
    for child in live:
        child.send(signal.SIGKILL)
    for child in live:
        await child.gone()


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Run side by side; the first error ends the rest.

    Raises:
        ClusterError: of one, or all their sentences in one.
    """

    async def one(each: Awaitable[None]) -> None:
        await each

    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(one(each))
    except ExceptionGroup as group:
        ours, other = group.split(ClusterError)
        if ours is None or other is not None:
            raise
        raise ClusterError("\n".join(str(error) for error in ours.exceptions)) from None


def last_lines(log: Path) -> str:
    """The last lines of a log file, "" if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_LINES:])


@contextmanager
def _append_to(log: Path) -> Iterator[int]:
    """A log's descriptor while a child is spawned; the child keeps its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _empty(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


def rss(pid: int) -> int | None:
    """Resident bytes of a process; None where there is no /proc, or if it has just ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float | None:
    """User and system seconds of a process; None where there is no /proc, or if it has just ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
