"""Finds the cluster that runs in a directory, for commands that are not its controller."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

from evertalk.cluster.verbs import ClusterError, ClusterFile, Endpoint, ProcessFact

CLUSTER_FILE = "cluster.json"
LOCK_FILE = "lock"


def load_cluster(directory: Path) -> ClusterFile:
    """What the cluster in `directory` says of itself.

    Raises:
        ClusterError: none runs there, or its file cannot be read.
    """
    path = directory / CLUSTER_FILE
    if not path.exists() or not controller_lives(directory):
        raise ClusterError(f"no cluster runs in {directory}: start one, or name the directory of one that runs")
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{path} is not a cluster's file: {error!r}") from error


def parse(found: dict[str, Any]) -> ClusterFile:
    """A ClusterFile from its JSON.

    Raises:
        KeyError, TypeError: something is missing or too much.
    """
    endpoints = [Endpoint(**each) for each in found.pop("endpoints")]
    processes = [ProcessFact(**each) for each in found.pop("processes")]
    return ClusterFile(endpoints=endpoints, processes=processes, **found)


def controller_lives(directory: Path) -> bool:
    """True if somebody holds the lock, which the kernel releases however a controller ends."""
    try:
        file = (directory / LOCK_FILE).open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
