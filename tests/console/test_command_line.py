"""`evertalk load`, `chat` and `status` as people and containers run them, against a cluster that loses a region."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from pathlib import Path

import pytest

from evertalk.console.endpoints import VARIABLE
from tests.e2e.test_command import EVERTALK, until
from tests.e2e.world import World, world

pytestmark = pytest.mark.timeout(120)


async def start(where: Path, *words: str, env: Mapping[str, str] | None = None) -> Process:
    """The command in a directory without a cluster of its own, in a session of its own."""
    return await asyncio.create_subprocess_exec(
        EVERTALK, *words, cwd=where, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env={**os.environ, **(env or {})},
        start_new_session=True,
    )  # fmt: skip


async def ended(process: Process, typed: str = "") -> tuple[int | None, str]:
    """(exit code, what else it printed)."""
    async with asyncio.timeout(30):
        said, _ = await process.communicate(typed.encode())
    return process.returncode, said.decode()


def reached(w: World) -> dict[str, str]:
    """The environment by which clients find the cluster."""
    return {VARIABLE: ",".join(f"{e.region}={e.address}" for e in w.endpoints()), "EVERTALK_PASSWORD": "password1"}


def environment_of(w: World, node: str) -> dict[str, str]:
    """What a node runs with, as one finds it inside its container."""
    pid = next(p.pid for p in w.cluster.file.processes if p.name == node)
    found = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in found if line)


async def type_in(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())
    await process.stdin.drain()


async def test_the_load_goes_on_without_a_region_and_status_says_so_from_the_other(tmp_path: Path) -> None:
    async with world(tmp_path / "c", nodes_per_region=1) as w:
        load = await start(tmp_path, "load", "--users", "4", "--rate", "20", env=reached(w))
        await until(load, "seoul 2, busan 2")
        inside = environment_of(w, "busan-1")
        code, said = await ended(await start(tmp_path, "status", "--json", env=inside))
        assert set(json.loads(said)["nodes"]) == {"seoul-1", "busan-1"}, said

        await w.region("seoul").kill()
        await until(load, "seoul 0, busan 4")
        load.send_signal(signal.SIGINT)
        again = await start(tmp_path, "load", "--users", "2", "--rate", "20", "--seconds", "1", env=reached(w))
        code, said = await ended(await start(tmp_path, "status", env=inside))
        assert code == 1
        assert re.search(r"seoul +│ seoul-1 +│ silent", said)
        assert "seoul has not been heard from" in said
        for each in (load, again):
            code, said = await ended(each)
            assert code == 0, said
            assert "every send was acknowledged" in said


async def test_two_people_in_two_regions_compare_their_histories(tmp_path: Path) -> None:
    async with world(tmp_path / "c", nodes_per_region=1) as w:
        anna = await start(tmp_path, "chat", "--as", "anna", "--region", "seoul", env=reached(w))
        await until(anna, "connected to seoul-1")
        code, said = await ended(
            await start(tmp_path, "chat", "--as", "bert", "--region", "busan", env=reached(w)),
            "/to anna\nhello anna\n안녕\n/digest\n",
        )
        assert code == 0, said
        digest = re.search(r"digest [0-9a-f]{12} of 2 messages", said)
        assert digest, said
        await until(anna, "bert: 안녕")
        await type_in(anna, "/digest")
        assert digest[0] in await until(anna, "digest")

        await w.region("seoul").kill()
        await type_in(anna, "still here")
        await until(anna, "(accepted)")
        code, said = await ended(await start(tmp_path, "chat", "--as", "cleo", env=reached(w)), "/to anna\nnew here\n")
        assert code == 0, said
        await until(anna, "cleo: new here")
        anna.send_signal(signal.SIGINT)
        await anna.wait()
        assert anna.returncode == 0


async def test_a_load_that_finds_nobody_can_be_interrupted(tmp_path: Path) -> None:
    load = await start(tmp_path, "load", "--endpoint", "seoul=127.0.0.1:1")
    await until(load, "waiting up to 60 s for a node that serves: seoul=127.0.0.1:1")
    load.send_signal(signal.SIGTERM)
    code, said = await ended(load)
    assert code == 143
    assert "Traceback" not in said


async def test_a_chat_without_a_terminal_or_a_password_says_what_is_missing(tmp_path: Path) -> None:
    chat = await start(
        tmp_path, "chat", "--as", "anna", "--endpoint", "seoul=127.0.0.1:1", env={"EVERTALK_PASSWORD": ""}
    )
    code, said = await ended(chat)
    assert code == 1
    assert "EVERTALK_PASSWORD" in said
    assert said.count("\n") == 1
