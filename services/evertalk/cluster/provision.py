"""Makes what containers must not find in a repository: each region's keys, passwords and configuration.

python -m evertalk.cluster.provision --root /secrets --nodes 2 seoul busan

One directory per region, with nothing secret of another's but the password that reads its Redis. What is there is
kept, so it may run at every start; given a region more, it adds that one to all (their processes notice).
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evertalk.adapters.redis_server import server_config_with_acl_file, users
from evertalk.adapters.tokens import make_keys, share_public_keys
from evertalk.cluster.layout import write_private
from evertalk.cluster.verbs import ClusterError

PORT = 7000  # of every process that serves gRPC, and of the WAN proxy's control
_REDIS_PORT = 6379
_USERS = ("admin", "node", "peer")
_REGIONS = "regions.json"
#: On a WAN proxy: the door that other regions come in by, and the ways out, ten ports for each region.
_DOOR, _WAYS_OUT, _PORTS_EACH = 7100, 7200, 10


def tell_endpoints(root: Path, regions: Sequence[str], given: Sequence[tuple[str, str]]) -> None:
    """Nodes tell clients where else to go: write the endpoints (region, "host:port") of the regions in `given`.

    Those of other regions stay as they were.
    """
    for region in regions:
        path = root / region / "evertalk_endpoints"
        known = json.loads(path.read_text()) if path.exists() else []
        named = {name for name, _ in given}
        kept = [each for each in known if each["region"] not in named]
        found = kept + [{"region": name, "address": address} for name, address in given]
        if found != known:
            write_private(path, json.dumps(found, indent=1))


def provision(root: Path, regions: Sequence[str], nodes: int, redis_memory_mb: int, delay_ms: float) -> bool:
    """Write what is missing below root/{region} for each region; True if something was.

    Args:
        root: holds one directory per region, on its own volume.
        regions: all that are to know each other.
        nodes: chat nodes in each.
        redis_memory_mb: each Redis refuses writes beyond.
        delay_ms: of the WAN, one way.

    Raises:
        ClusterError: a region has no directory.
    """
    for region in regions:
        if not (root / region).is_dir():
            raise ClusterError(f"{root / region} is no directory: mount a volume of region {region} there")
    if all(set(regions) <= set(_regions_of(root / region)) for region in regions):
        return False
    known = _known(root, regions)
    passwords = {region: _passwords(root / region / "passwords.json") for region in known}
    keys = {region: root / region / "keys" for region in known}
    for region, directory in keys.items():
        if not (directory / f"{region}.private.json").exists():  # or a running region's would be without others'
            make_keys(directory, [region])
    share_public_keys(keys)
    for region in known:
        _configure(root / region, region, known, passwords, nodes, redis_memory_mb, delay_ms)
    return True


def _known(root: Path, regions: Sequence[str]) -> list[str]:
    """Those that are known already, in their order (ports hang on it), then the new ones."""
    found: list[str] = []
    for region in regions:
        found += [name for name in _regions_of(root / region) if name not in found]
    found += [name for name in regions if name not in found]
    if strangers := [name for name in found if name not in regions]:
        raise ClusterError(f"{', '.join(strangers)} belong to this cluster too: name all of its regions")
    return found


def _regions_of(directory: Path) -> list[str]:
    path = directory / _REGIONS
    return list(json.loads(path.read_text())) if path.exists() else []


def _passwords(path: Path) -> dict[str, str]:
    if not path.exists():
        write_private(path, json.dumps({user: secrets.token_urlsafe(24) for user in _USERS}, indent=1))
    return dict(json.loads(path.read_text()))


def _configure(
    directory: Path,
    region: str,
    regions: Sequence[str],
    passwords: dict[str, dict[str, str]],
    nodes: int,
    redis_memory_mb: int,
    delay_ms: float,
) -> None:
    own = passwords[region]
    acl = directory / "users.acl"
    memory = redis_memory_mb * 1024 * 1024
    write_private(acl, "\n".join([*users(own["node"], own["peer"], own["admin"]), _HEALTH]) + "\n")
    config = server_config_with_acl_file(Path("/data"), _REDIS_PORT, str(acl), memory, "0.0.0.0")
    write_private(directory / "redis.conf", config)
    write_private(directory / "evertalk_redis", f"redis://node:{own['node']}@{region}-redis:{_REDIS_PORT}")
    write_private(directory / "evertalk_peers", json.dumps(_peers(region, regions, passwords, nodes), indent=1))
    write_private(directory / "wan.json", json.dumps(_wan(region, regions, nodes, delay_ms), indent=1))
    write_private(directory / _REGIONS, json.dumps(list(regions)))  # the last: it says that the rest is there


#: For the container's health check: no password, and nothing but PING.
_HEALTH = "user health on nopass -@all +ping"


def _way_out(regions: Sequence[str], peer: str, service: int) -> int:
    """The port of a region's own WAN proxy that leads to a peer's Redis (0) or node (1, 2, …)."""
    return _WAYS_OUT + _PORTS_EACH * list(regions).index(peer) + service


def _peers(
    region: str, regions: Sequence[str], passwords: dict[str, dict[str, str]], nodes: int
) -> dict[str, dict[str, Any]]:
    """The other regions as this one reaches them: through its own WAN proxy."""
    proxy = f"{region}-wan"
    return {
        peer: {
            "redis": f"redis://peer:{passwords[peer]['peer']}@{proxy}:{_way_out(regions, peer, 0)}",
            "nodes": {f"{peer}-{n}": f"{proxy}:{_way_out(regions, peer, n)}" for n in range(1, nodes + 1)},
        }
        for peer in regions
        if peer != region
    }


def _wan(region: str, regions: Sequence[str], nodes: int, delay_ms: float) -> dict[str, Any]:
    """The proxy of a region: the ways out are the WAN, shaped; the door is this region's end of it, and is not."""
    services = range(nodes + 1)
    door = [
        {
            "name": f"wan>{region}/{_service(region, n)}",
            "from_region": "wan",
            "to_region": region,
            "listen": f"0.0.0.0:{_DOOR + n}",
            "target": f"{region}-{n}:{PORT}" if n else f"{region}-redis:{_REDIS_PORT}",
            "quality": {"delay_ms": 0.0},
        }
        for n in services
    ]
    out = [
        {
            "name": f"{region}>{peer}/{_service(peer, n)}",
            "from_region": region,
            "to_region": peer,
            "listen": f"0.0.0.0:{_way_out(regions, peer, n)}",
            "target": f"{peer}-wan:{_DOOR + n}",
        }
        for peer in regions
        if peer != region
        for n in services
    ]
    return {"control": f"127.0.0.1:{PORT}", "quality": {"delay_ms": delay_ms}, "links": [*door, *out]}


def _service(region: str, number: int) -> str:
    return f"{region}-{number}" if number else "redis"


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if everything is there now."""
    parser = argparse.ArgumentParser(prog="python -m evertalk.cluster.provision", description=__doc__)
    parser.add_argument("regions", nargs="+")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=2, choices=range(1, _PORTS_EACH))
    parser.add_argument("--redis-memory-mb", type=int, default=256)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--endpoint", action="append", default=[], help="region=host:port, as clients reach a node")
    given = parser.parse_args(arguments)
    endpoints = [(region, address) for region, _, address in (text.partition("=") for text in given.endpoint)]
    try:
        made = provision(given.root, given.regions, given.nodes, given.redis_memory_mb, given.delay_ms)
        tell_endpoints(given.root, given.regions, endpoints)
    except (ClusterError, OSError, ValueError) as error:
        print(f"provision: {error}", file=sys.stderr)
        return 1
    print(f"{', '.join(given.regions)}: " + ("configured" if made else "configured already"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
