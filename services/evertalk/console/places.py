"""Whom `evertalk status` asks: the nodes of a cluster on this machine, or those that this container's node knows."""

from __future__ import annotations

import os
from pathlib import Path

from evertalk.adapters.launch import load
from evertalk.adapters.settings import NodeSettings
from evertalk.cluster.local import controller_lives, load_cluster
from evertalk.console.status import Operator, Place

#: Either says that this is the environment of a node.
_OF_A_NODE = ("EVERTALK_NODE", "EVERTALK_SECRETS")
_ANY_HOST = ("", "0.0.0.0", "[::]")


def find_operator(directory: Path | None, default: Path) -> Operator:
    """For the cluster in `directory`; else the one that runs in `default`; else the one of which the environment
    describes a node.

    Raises:
        ClusterError: no cluster runs there. BadSettings: the environment is not a node's after all. BadKeys.
    """
    described = any(os.environ.get(variable) for variable in _OF_A_NODE)
    if directory is None and described and not controller_lives(default):
        return _from_settings(load(NodeSettings))
    file = load_cluster(directory or default)
    return Operator([Place(e.region, e.node, e.address) for e in file.endpoints], dict(file.keys))


def places_of(settings: NodeSettings) -> list[Place]:
    """This node, its neighbours, and every peer's nodes as they are reached through the WAN."""
    found = [Place(settings.region, settings.node, _reachable(settings.listen))]
    found += [Place(settings.region, node, address) for node, address in settings.neighbours.items()]
    for region, peer in settings.peers.items():
        found += [Place(region, node, address) for node, address in peer.nodes.items()]
    return found


def _from_settings(settings: NodeSettings) -> Operator:
    keys = {settings.region: str(settings.keys)}
    return Operator(places_of(settings), keys, settings.copies, [settings.region, *settings.peers])


def _reachable(listen: str) -> str:
    """Where a server that listens there is reached from its own machine."""
    host, _, port = listen.rpartition(":")
    return f"127.0.0.1:{port}" if host in _ANY_HOST else listen
