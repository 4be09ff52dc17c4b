"""Settings that every process of a region shares, from EVERTALK_* environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _redis_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix") or (parts.scheme != "unix" and not parts.hostname):
        raise ValueError("it is not a redis:// URL")
    if parts.scheme != "unix" and parts.port == 0:
        raise ValueError("its port is not a number above 0")
    return url


RedisUrl = Annotated[str, AfterValidator(_redis_url)]


class PeerRegion(BaseModel):
    """How this region reaches another one, always through the WAN: its Redis (read-only user) and its nodes."""

    redis: RedisUrl  # redis://peer:password@host:port
    nodes: dict[str, str] = Field(default_factory=dict)  # node name -> host:port


class ClientEndpoint(BaseModel):
    """A node as clients reach it."""

    region: str
    address: str


class RegionSettings(BaseSettings):
    """What a chat node and a replicator both need to know."""

    model_config = SettingsConfigDict(env_prefix="EVERTALK_", extra="ignore")

    region: str
    redis: RedisUrl  # redis://node:password@host:port of this region
    shards: int = Field(4, ge=1, le=256)
    peers: dict[str, PeerRegion] = Field(default_factory=dict)  # JSON in the environment
    copies: int = Field(2, ge=1)  # regions that must hold an event before it is REPLICATED
    log_cap_bytes: int = Field(64 * 1024 * 1024, ge=64 * 1024)  # per stream; beyond it peers are let go
    log_keep: int = Field(1000, ge=0)  # entries kept for readers even when all stores hold them
    log_keep_s: float = Field(3600.0, gt=0)  # retention: older entries go, whoever is behind but own stores (P9)
    clock_file: Path | None = None  # for drills: milliseconds by which this process's clock is wrong
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class NodeSettings(RegionSettings):
    """A chat node's own."""

    node: str
    listen: str  # host:port
    store: Path  # the SQLite file
    keys: Path  # directory with public.json and {region}.private.json
    neighbours: dict[str, str] = Field(default_factory=dict)  # the region's other nodes: name -> host:port
    endpoints: list[ClientEndpoint] = Field(default_factory=list)
    checkpoint_s: float = Field(5.0, gt=0, le=60)


class ReplicatorSettings(RegionSettings):
    """A replicator's own."""

    name: str = "replicator"
    rewrite_s: float = Field(600.0, gt=0)  # scheduled AOF rewrite (P9)
    listen: str = ""  # host:port of the health service, empty for none
