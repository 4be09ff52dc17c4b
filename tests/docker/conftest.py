"""The suite on a real Docker Engine; where there is none, or no image to build on, it is skipped and says why."""

from __future__ import annotations

import asyncio
import os

import pytest

from evertalk.cluster.docker import compose_command, docker
from evertalk.cluster.verbs import ClusterError

#: As docker-compose.yml names them.
BASES = (
    os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm"),
    os.environ.get("REDIS_IMAGE", "redis:7-bookworm"),
)


async def _missing() -> str:
    """What the suite lacks; "" for nothing."""
    try:
        await compose_command()
    except ClusterError as error:
        return str(error)
    for image in BASES:
        try:
            await docker("image", "inspect", image)
        except ClusterError:
            return f"the image {image} is not here: docker pull {image}"
    return ""


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Everything here needs it."""
    if missing := asyncio.run(_missing()):
        pytest.skip(missing)
