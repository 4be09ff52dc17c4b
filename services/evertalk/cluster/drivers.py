"""The drivers by name: each starts a cluster that the verbs of `evertalk.cluster.verbs` can break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evertalk.cluster.compose import ComposeCluster
from evertalk.cluster.layout import Options
from evertalk.cluster.processes import ProcessCluster
from evertalk.cluster.verbs import Cluster, ClusterError

NAMES = ("process", "compose")


async def create(
    driver: str,
    directory: Path,
    regions: Sequence[str],
    nodes_per_region: int,
    shards: int,
    seed: int,
    env: Mapping[str, str],
) -> Cluster:
    """Start a cluster and return when all of it is ready; leave it as a context manager or with `close`.

    Args:
        driver: one of NAMES.
        directory: for what it writes.
        seed: of the WAN's jitter.
        env: more environment of every node and replicator.

    Raises:
        ClusterError: there is no such driver, or something does not start. NoServer: no Redis to run here.
    """
    match driver:
        case "process":
            return await ProcessCluster.create(
                directory, regions, nodes_per_region, shards, seed, Options(env=dict(env))
            )
        case "compose":
            return await ComposeCluster.create(directory, regions, nodes_per_region, shards, seed, env)
        case _:
            raise ClusterError(f"there is no driver {driver!r}; there are: {', '.join(NAMES)}")
