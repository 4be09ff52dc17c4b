"""Runs `docker` and its Compose tool, whichever of the two there is, and says in a sentence what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evertalk.cluster.verbs import ClusterError

_SHORT_S = 60.0
_LAST_LINES = 12


async def run(command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = _SHORT_S) -> str:
    """Run a command to its end; returns what it printed.

    Args:
        env: added to this process's own.

    Raises:
        ClusterError: it cannot be run, failed, or took too long; with the end of what it said.
    """
    name = " ".join(command[:3])
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is the controller's business
        )
    except OSError as error:
        raise ClusterError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise ClusterError(f"{name} … was not done after {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = (err or out).decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise ClusterError(f"{name} … failed:\n" + "\n".join(said))
    return out.decode(errors="replace")


async def docker(*arguments: str, timeout_s: float = _SHORT_S) -> str:
    """One command of the Docker Engine's own tool. Raises as `run` does."""
    return await run(["docker", *arguments], timeout_s=timeout_s)


async def inspect(names: Sequence[str]) -> list[dict[str, Any]]:
    """What the engine knows of containers, in their order."""
    found: list[dict[str, Any]] = json.loads(await docker("inspect", *names)) if names else []
    return found


class Compose:
    """One Compose project.

    Args:
        command: of the Compose tool, see `compose_command`.
        files: compose files, the later ones changing the earlier.
        project: its name; containers, networks and volumes bear it.
        profiles: to enable.
        env: what the files take from the environment.
    """

    def __init__(
        self,
        command: Sequence[str],
        files: Sequence[Path],
        project: str,
        profiles: Sequence[str],
        env: Mapping[str, str],
    ) -> None:
        self.project = project
        self.env = env
        self.command = [
            *command,
            *(part for file in files for part in ("-f", str(file))),
            *("--project-directory", str(files[0].parent)),
            *("-p", project),
            *(part for profile in profiles for part in ("--profile", profile)),
        ]

    async def __call__(self, *arguments: str, timeout_s: float = _SHORT_S) -> str:
        """One command of the tool for this project. Raises as `run` does."""
        return await run([*self.command, *arguments], self.env, timeout_s)

    async def containers(self) -> dict[str, str]:
        """Container ids by service, running or not."""
        listed = await docker(
            "ps", "-a", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.project}",
            "--format", '{{.Label "com.docker.compose.service"}} {{.ID}}',
        )  # fmt: skip
        return dict(line.split() for line in listed.splitlines() if line.strip())


async def compose_command() -> list[str]:
    """`docker compose` or `docker-compose`, whichever is there.

    Raises:
        ClusterError: no engine answers, or there is no Compose.
    """
    try:
        await docker("version", "--format", "{{.Server.Version}}", timeout_s=10.0)
    except ClusterError as error:
        raise ClusterError(f"no Docker Engine answers: {error}") from error
    try:
        await docker("compose", "version", timeout_s=10.0)
    except ClusterError:
        if shutil.which("docker-compose"):
            return ["docker-compose"]
        raise ClusterError("there is neither `docker compose` nor `docker-compose`: install one of them") from None
    return ["docker", "compose"]
