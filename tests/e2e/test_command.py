"""The `evertalk` command as people run it: drills, their certificates, a cluster that keeps running, chat."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

EVERTALK = Path(sys.executable).with_name("evertalk")
TRANSCRIPTS = Path(__file__).parent.parent / "core" / "transcripts"

pytestmark = pytest.mark.timeout(180)


async def start(*words: str | Path, **env: str) -> Process:
    """The command, in a session of its own, so that a signal reaches it alone."""
    given = {**os.environ, **env}
    return await asyncio.create_subprocess_exec(
        EVERTALK, *map(str, words), stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.STDOUT,
        env=given, start_new_session=True,
    )  # fmt: skip


async def ran(*words: str | Path) -> tuple[int, str]:
    """(exit code, what it printed)."""
    process = await start(*words)
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def until(process: Process, word: str) -> str:
    """Read what it prints up to a line that holds the word."""
    assert process.stdout is not None
    read = []
    async with asyncio.timeout(90):
        while line := (await process.stdout.readline()).decode():
            read.append(line)
            if word in line:
                return "".join(read)
    raise AssertionError(f"it ended without {word!r}: {''.join(read)}")


def left_behind(directory: Path) -> list[str]:
    """Command lines of processes that name this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            where = entry.read_bytes() + entry.with_name("cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if str(directory).encode() in where and int(entry.parent.name) != os.getpid():
            found.append(entry.with_name("cmdline").read_bytes().decode())
    return [line for line in found if "valkey" in line or "evertalk" in line or "redis" in line]


async def test_a_drill_holds_and_its_certificate_can_be_recomputed_and_not_forged(tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, said = await ran("drill", "run", "kill-region", "--users", "8", "--rate", "40", "--seconds", "8",
                           "--seed", "7", "--plain", "--lose-disks", "--out", out)  # fmt: skip
    assert code == 0, said
    assert "verdict: held" in said
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["schema"] == "evertalk.drill/1"
    assert certificate["verdict"] == "held"
    assert [f["verb"] for f in certificate["faults"]] == ["kill"]
    assert certificate["counts"]["accepted"] > 200
    assert not left_behind(tmp_path)

    code, said = await ran("drill", "verify", out)
    assert code == 0, said

    history = out / "history.jsonl.gz"
    lines = gzip.decompress(history.read_bytes()).split(b"\n")
    hit = next(i for i, line in enumerate(lines) if b'"told"' in line and b'"replicated"' in line)
    del lines[hit]
    history.write_bytes(gzip.compress(b"\n".join(lines), mtime=0))
    code, said = await ran("drill", "verify", out)
    assert code == 1
    assert "history" in said


async def test_a_chat_export_is_played_and_read_back_from_every_region(tmp_path: Path) -> None:
    code, said = await ran("drill", "run", "kill-region", "--transcript", TRANSCRIPTS / "kakaotalk-pc-ko.txt",
                           "--seconds", "5", "--plain", "--out", tmp_path / "report")  # fmt: skip
    assert code == 0, said
    assert "read back from seoul: all" in said
    assert "read back from busan: all" in said


async def test_a_file_that_is_no_chat_export_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "shopping.txt").write_text("milk\nbread\n")
    code, said = await ran("drill", "run", "kill-region", "--transcript", tmp_path / "shopping.txt")
    assert code == 1
    assert said.count("\n") == 1
    assert "no chat export" in said


async def test_a_drill_that_is_interrupted_leaves_nothing_running(tmp_path: Path) -> None:
    drill = await start("drill", "run", "baseline", "--plain", "--out", tmp_path / "report")
    await until(drill, "begin to talk")
    assert left_behind(tmp_path)
    drill.send_signal(signal.SIGINT)
    await drill.communicate()
    assert drill.returncode == 130
    assert not left_behind(tmp_path)


async def test_unknown_drills_and_drivers_are_named() -> None:
    assert "there are: all, baseline" in (await ran("drill", "run", "earthquake"))[1]
    assert "there are: process, compose" in (await ran("drill", "run", "baseline", "--driver", "balloon"))[1]
    code, said = await ran("drill", "list")
    assert code == 0
    assert "kill-region" in said


async def test_a_cluster_is_started_looked_at_and_talked_through(tmp_path: Path) -> None:
    where = tmp_path / "data"
    up = await start("up", "--dir", where)
    await until(up, "Ctrl-C")
    try:
        code, said = await ran("status", "--dir", where, "--json")
        assert code == 0, said
        assert json.loads(said)["redundancy_whole"]
        anna = await start("chat", "--as", "anna", "--region", "seoul", "--dir", where, EVERTALK_PASSWORD="password1")
        await until(anna, "connected to")
        bert = await start("chat", "--as", "bert", "--region", "busan", "--dir", where, EVERTALK_PASSWORD="password1")
        await until(bert, "connected to")
        assert bert.stdin is not None
        bert.stdin.write(b"/to anna\nhello anna\n")
        await until(anna, "bert: hello anna")
        for one in (anna, bert):
            assert one.stdin is not None
            one.stdin.write(b"/quit\n")
            await one.communicate()
            assert one.returncode == 0
    finally:
        up.send_signal(signal.SIGINT)
        await up.communicate()
    assert up.returncode == 0
    assert not left_behind(tmp_path)
    code, said = await ran("status", "--dir", where)
    assert code == 1
    assert "no cluster runs in" in said
