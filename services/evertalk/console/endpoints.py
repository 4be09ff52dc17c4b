"""Where a client on the command line finds its nodes: named ones, the environment, or a cluster of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from evertalk.client import Endpoint
from evertalk.cluster.local import load_cluster
from evertalk.core.errors import EvertalkError

VARIABLE = "EVERTALK_CLIENT_ENDPOINTS"
_HIGHEST_PORT = 65_535


class BadEndpoint(EvertalkError):
    """An endpoint or a region that a person typed makes no sense; the sentence shows it."""


def parse_endpoint(text: str) -> Endpoint:
    """An endpoint as people write it: region=host:port, an IPv6 host in brackets.

    Raises:
        BadEndpoint
    """
    region, _, address = text.strip().partition("=")
    host, _, port = address.rpartition(":")
    # A host with colons of its own, or none: then what looks like the port may be a part of the host.
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not region or not host or bare or not port.isdecimal() or not 0 < int(port) <= _HIGHEST_PORT:
        raise BadEndpoint(f"an endpoint is written region=host:port; {text!r} is not")
    return Endpoint(region.strip(), address)


def find_endpoints(given: Sequence[str], directory: Path | None, default: Path) -> list[Endpoint]:
    """Those given; else those of the cluster in `directory`; else those of the environment; else those of the
    cluster in `default`.

    Raises:
        BadEndpoint. ClusterError: no cluster runs in that directory.
    """
    if given:
        return [parse_endpoint(text) for text in given]
    from_environment = os.environ.get(VARIABLE, "").strip()
    if directory is None and from_environment:
        try:
            return [parse_endpoint(text) for text in from_environment.split(",") if text.strip()]
        except BadEndpoint as error:
            raise BadEndpoint(f"{VARIABLE}: {error}") from error
    return [Endpoint(e.region, e.address) for e in load_cluster(directory or default).endpoints]


def regions_of(endpoints: Sequence[Endpoint]) -> list[str]:
    """Every region once, in the order of the endpoints."""
    return list(dict.fromkeys(e.region for e in endpoints))


def prefer(endpoints: Sequence[Endpoint], region: str) -> list[Endpoint]:
    """The same, one region's first; "" = as they are.

    Raises:
        BadEndpoint: there is no such region.
    """
    if region and region not in regions_of(endpoints):
        raise BadEndpoint(f"there is no region {region!r}; there are: {', '.join(sorted(regions_of(endpoints)))}")
    return sorted(endpoints, key=lambda e: bool(region) and e.region != region)
