"""A local cluster on paper: ports, directories, and the configuration of each of its processes."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evertalk.adapters.redis_server import server_config
from evertalk.adapters.tokens import make_keys, share_public_keys
from evertalk.cluster.ports import HOST, free_ports

_USERS = ("admin", "node", "peer")


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between clusters.

    Args:
        copies: regions that must hold an event before it is REPLICATED.
        delay_ms, jitter_ms: of the WAN, one way.
        start_timeout_s: for each step of starting.
        stop_timeout_s: between SIGTERM and SIGKILL.
        max_memory_mb: of each Redis.
        env: more environment of nodes and replicators, EVERTALK_* or other; region_env: of one region's.
    """

    copies: int = 2
    delay_ms: float = 20.0
    jitter_ms: float = 0.0
    start_timeout_s: float = 90.0
    stop_timeout_s: float = 5.0
    max_memory_mb: int = 512
    env: Mapping[str, str] = field(default_factory=dict)
    region_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """A chat node's place."""

    name: str
    region: str
    port: int
    directory: Path

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class RegionLayout:
    """A region's place. `passwords`: of its Redis users admin, node and peer."""

    name: str
    directory: Path
    redis_port: int
    replicator_port: int
    nodes: Mapping[str, NodeLayout]
    passwords: Mapping[str, str] = field(repr=False)

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def clock(self) -> Path:
        """What its services' wall clocks are wrong by (adapters/clock.py); no file: right."""
        return self.directory / "clock"

    @property
    def redis_directory(self) -> Path:
        return self.directory / "redis"

    @property
    def redis_config(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def replicator_address(self) -> str:
        return f"{HOST}:{self.replicator_port}"

    def redis_url(self, user: str, port: int | None = None) -> str:
        """redis://user:password@host:port, directly or through a link's port."""
        return f"redis://{user}:{self.passwords[user]}@{HOST}:{port or self.redis_port}"


@dataclass(frozen=True, slots=True)
class Link:
    """`from_region` reaches a service ("redis" or a node's name) of `to_region` at `port`."""

    from_region: str
    to_region: str
    service: str
    port: int
    target: str

    @property
    def name(self) -> str:
        return f"{self.from_region}>{self.to_region}/{self.service}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that is fixed before the first process starts, and stays."""

    directory: Path
    shards: int
    seed: int
    options: Options
    regions: Mapping[str, RegionLayout]
    links: Sequence[Link]
    control_port: int

    @property
    def control(self) -> str:
        return f"{HOST}:{self.control_port}"

    @property
    def wan_config(self) -> Path:
        return self.directory / "wan.json"

    def nodes(self) -> Iterator[NodeLayout]:
        """Every region's nodes."""
        for region in self.regions.values():
            yield from region.nodes.values()


def plan(
    directory: Path, regions: Sequence[str], nodes_per_region: int, shards: int, seed: int, options: Options
) -> Layout:
    """Choose names and free ports; passwords that an earlier life of the directory made are kept.

    Raises:
        ClusterError: no ports are free. ValueError: names repeat or cannot be file names.
    """
    if len(set(regions)) != len(regions) or not regions or nodes_per_region < 1:
        raise ValueError(f"a cluster needs different regions and at least one node in each, not {regions!r}")
    for name in regions:
        if not name.isascii() or not name.replace("_", "").isalnum():
            raise ValueError(f"a region's name has letters, digits and underscores, not {name!r}")
    directory = directory.absolute()  # processes run with it as their working directory
    pairs = len(regions) * (len(regions) - 1)
    wanted = 1 + len(regions) * (2 + nodes_per_region) + pairs * (1 + nodes_per_region)
    ports = iter(free_ports(wanted))
    places = {name: _region(directory / name, name, nodes_per_region, ports) for name in regions}
    links = [
        Link(source, target.name, service, next(ports), address)
        for source in regions
        for target in places.values()
        if target.name != source
        for service, address in [
            ("redis", f"{HOST}:{target.redis_port}"),
            *((node.name, node.address) for node in target.nodes.values()),
        ]
    ]
    return Layout(directory, shards, seed, options, places, links, next(ports))


def _region(directory: Path, name: str, nodes: int, ports: Iterator[int]) -> RegionLayout:
    names = [f"{name}-{number}" for number in range(1, nodes + 1)]
    return RegionLayout(
        name, directory, next(ports), next(ports),
        {node: NodeLayout(node, name, next(ports), directory / "nodes" / node) for node in names},
        _passwords(directory / "passwords.json"),
    )  # fmt: skip


def _passwords(path: Path) -> dict[str, str]:
    if path.exists():
        return dict(json.loads(path.read_text()))
    made = {user: secrets.token_urlsafe(24) for user in _USERS}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(made, indent=1))
    return made


def write(layout: Layout) -> None:
    """Make the directories, keys and configuration files."""
    for region in layout.regions.values():
        for directory in (region.redis_directory, *(node.directory for node in region.nodes.values())):
            directory.mkdir(parents=True, exist_ok=True)
        make_keys(region.keys, [region.name])
        write_private(region.redis_config, _redis_config(region, layout.options))
    share_public_keys({region.name: region.keys for region in layout.regions.values()})
    write_private(layout.wan_config, json.dumps(wan_config(layout), indent=1))


def _redis_config(region: RegionLayout, options: Options) -> str:
    return server_config(
        region.redis_directory,
        region.redis_port,
        region.passwords["node"],
        region.passwords["peer"],
        options.max_memory_mb * 1024 * 1024,
        HOST,
        region.passwords["admin"],
    )


def wan_config(layout: Layout) -> dict[str, Any]:
    """The proxy's configuration: a link per ordered pair of regions and service."""
    return {
        "control": layout.control,
        "seed": layout.seed,
        "quality": {"delay_ms": layout.options.delay_ms, "jitter_ms": layout.options.jitter_ms},
        "links": [
            {
                "name": link.name,
                "from_region": link.from_region,
                "to_region": link.to_region,
                "listen": f"{HOST}:{link.port}",
                "target": link.target,
            }
            for link in layout.links
        ],
    }


def _peers(layout: Layout, region: str) -> dict[str, dict[str, Any]]:
    """The other regions as this one reaches them: through the WAN."""
    found: dict[str, dict[str, Any]] = {name: {"redis": "", "nodes": {}} for name in layout.regions if name != region}
    for link in layout.links:
        if link.from_region == region and link.service == "redis":
            found[link.to_region]["redis"] = layout.regions[link.to_region].redis_url("peer", link.port)
        elif link.from_region == region:
            found[link.to_region]["nodes"][link.service] = f"{HOST}:{link.port}"
    return found


def _region_env(layout: Layout, region: RegionLayout) -> dict[str, str]:
    """The controller's environment without its own EVERTALK_*, and what all services of a region share."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("EVERTALK_")}
    return inherited | {
        "PYTHONUNBUFFERED": "1",
        "EVERTALK_REGION": region.name,
        "EVERTALK_REDIS": region.redis_url("node"),
        "EVERTALK_SHARDS": str(layout.shards),
        "EVERTALK_COPIES": str(layout.options.copies),
        "EVERTALK_CLOCK_FILE": str(region.clock),
        "EVERTALK_PEERS": json.dumps(_peers(layout, region.name)),
    }


def _more_env(layout: Layout, region: str) -> dict[str, str]:
    return {**layout.options.env, **layout.options.region_env.get(region, {})}


def node_env(layout: Layout, node: NodeLayout) -> dict[str, str]:
    """The whole environment of a chat node (adapters/settings.py NodeSettings)."""
    region = layout.regions[node.region]
    endpoints = [{"region": each.region, "address": each.address} for each in layout.nodes()]
    return {
        **_region_env(layout, region),
        "EVERTALK_NODE": node.name,
        "EVERTALK_LISTEN": node.address,
        "EVERTALK_STORE": str(node.directory / "store.db"),
        "EVERTALK_KEYS": str(region.keys),
        "EVERTALK_NEIGHBOURS": json.dumps(
            {each.name: each.address for each in region.nodes.values() if each.name != node.name}
        ),
        "EVERTALK_ENDPOINTS": json.dumps(endpoints),
        **_more_env(layout, region.name),
    }


def replicator_env(layout: Layout, region: RegionLayout) -> dict[str, str]:
    """The whole environment of a replicator (adapters/settings.py ReplicatorSettings)."""
    return {
        **_region_env(layout, region),
        "EVERTALK_NAME": f"{region.name}-replicator",
        "EVERTALK_LISTEN": region.replicator_address,
        **_more_env(layout, region.name),
    }


def write_private(path: Path, text: str) -> None:
    """Replace a file at once; only its owner may read it."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def to_json(value: Any) -> str:
    """A dataclass as JSON."""
    return json.dumps(asdict(value), indent=1)
