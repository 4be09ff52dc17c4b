"""Drills on containers, as people run them: a verdict that can be checked, and nothing left on the engine."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from evertalk.cluster.compose import FILE_VARIABLE, find_file
from evertalk.cluster.docker import docker
from tests.docker.project import EVERTALK, PROJECT, SERVICE, left_behind, projects_of, ran, started, until

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("docker")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout under another name, so that the engine's labels tell whose drill it was."""
    path = tmp_path / "checkout"
    path.symlink_to(find_file().parent)
    return path


def drill(checkout: Path, *words: str | Path) -> tuple[list[str | Path], dict[str, str]]:
    """A drill's command line and environment."""
    command = [EVERTALK, "drill", "run", *words, "--driver", "compose", "--users", "12", "--rate", "40", "--plain"]
    return command, {FILE_VARIABLE: str(checkout / find_file().name)}


async def project_of(process: Process, checkout: Path) -> str:
    """Name of the drill's project, once its people talk."""
    await until(process, "begin to talk")
    [project] = await projects_of(checkout)
    assert await left_behind(project)
    return project


async def test_a_region_of_containers_dies_with_its_disks_and_the_drill_holds(tmp_path: Path, checkout: Path) -> None:
    out = tmp_path / "report"
    command, env = drill(checkout, "kill-region", "--lose-disks", "--seconds", "10", "--out", out)
    async with started(*command, env=env) as process:
        project = await project_of(process, checkout)
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert "verdict: held" in said.decode()
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["driver"] == "compose"
    assert certificate["verdict"] == "held"
    assert [fault["verb"] for fault in certificate["faults"]] == ["kill"]
    assert certificate["counts"]["accepted"] > 200
    code, words = await ran(EVERTALK, "drill", "verify", out)
    assert code == 0, words
    assert await left_behind(project) == []


async def test_a_drill_during_which_everything_stood_still_says_so(tmp_path: Path, checkout: Path) -> None:
    out = tmp_path / "report"
    command, env = drill(checkout, "baseline", "--seconds", "8", "--out", out)
    async with started(*command, env=env) as process:
        project = await project_of(process, checkout)
        nodes = [("--filter", f"label={SERVICE}={node}") for node in ("seoul-1", "seoul-2", "busan-1", "busan-2")]
        mine = ("--filter", f"label={PROJECT}={project}")
        ids = [(await docker("ps", "-q", *mine, *node)).strip() for node in nodes]
        await docker("pause", *ids)
        await asyncio.sleep(3)  # is the fault: nobody has an answer for so long
        await docker("unpause", *ids)
        said, _ = await process.communicate()
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["gap_ms"]["p99"] > 2000, said.decode()
    assert "gap_p99_ms" in [limit["name"] for limit in certificate["limits"] if not limit["within"]]
    assert "Limit exceeded: gap_p99_ms" in said.decode()
    assert await left_behind(project) == []


async def test_a_drill_that_is_interrupted_leaves_nothing_on_the_engine(tmp_path: Path, checkout: Path) -> None:
    command, env = drill(checkout, "baseline", "--out", tmp_path / "report")
    async with started(*command, env=env) as process:
        project = await project_of(process, checkout)
        process.send_signal(signal.SIGINT)
        said, _ = await process.communicate()
    assert process.returncode == 130, said.decode()
    assert await left_behind(project) == []


async def test_nor_does_one_that_is_ended_while_its_containers_are_made(tmp_path: Path, checkout: Path) -> None:
    command, env = drill(checkout, "baseline", "--out", tmp_path / "report")
    news = ["docker", "events", "--filter", "type=container", "--filter", "event=create", "--format", "{{json .Actor}}"]
    async with started(*news) as events, started(*command, env=env) as process:
        await until(events, str(checkout))
        [project] = await projects_of(checkout)
        process.send_signal(signal.SIGTERM)
        said, _ = await process.communicate()
    assert process.returncode == 143, said.decode()
    assert await left_behind(project) == []


async def test_what_the_compose_file_has_not_is_refused_before_anything_is_made(checkout: Path, tmp_path: Path) -> None:
    command, env = drill(checkout, "baseline", "--regions", "seoul,atlantis", "--out", tmp_path / "report")
    code, said = await ran(*command, env=env)
    assert code == 1
    assert "the compose file has the regions seoul and busan, or all of busan, jeju, seoul" in said
    assert await projects_of(checkout) == []


async def test_without_an_engine_a_drill_says_so_in_a_sentence(checkout: Path, tmp_path: Path) -> None:
    command, env = drill(checkout, "baseline", "--out", tmp_path / "report")
    code, said = await ran(*command, env={**env, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"})
    assert code == 1
    assert "no Docker Engine answers" in said
    assert "Traceback" not in said
