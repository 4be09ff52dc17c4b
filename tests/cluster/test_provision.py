"""Provisioning: makes what is missing, keeps what is there, and gives each region its own secrets only."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evertalk.adapters.tokens import Keyring
from evertalk.cluster.provision import main, provision
from evertalk.cluster.verbs import ClusterError

TWO = ("seoul", "busan")
THREE = (*TWO, "jeju")


def volumes(root: Path, *regions: str) -> None:
    """Empty ones, as the engine makes them."""
    for region in regions:
        (root / region).mkdir(mode=0o700)


def made(root: Path, regions: Sequence[str] = TWO) -> bool:
    return provision(root, regions, nodes=2, redis_memory_mb=64, delay_ms=20.0)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(root: Path, region: str, name: str) -> Any:
    return json.loads((root / region / name).read_text())


def understands(root: Path, reader: str, author: str) -> bool:
    """Whether a token minted in one region is good in another."""
    token, _ = Keyring(root / author / "keys", author).mint("ops", "cluster", 0)
    return Keyring(root / reader / "keys", reader).verify(token, 0, "cluster").subject == "ops"


def doors(root: Path, region: str) -> dict[str, tuple[str, str]]:
    """The links of a region's proxy: name -> (where it listens, whereto it leads)."""
    return {link["name"]: (link["listen"], link["target"]) for link in read(root, region, "wan.json")["links"]}


def test_what_is_missing_is_made_and_the_regions_understand_each_other(tmp_path: Path) -> None:
    volumes(tmp_path, *TWO)
    assert made(tmp_path)
    assert {path.name for path in (tmp_path / "seoul").iterdir()} == {
        *("evertalk_peers", "evertalk_redis", "keys", "passwords.json"),
        *("redis.conf", "regions.json", "users.acl", "wan.json"),
    }
    assert all(understands(tmp_path, reader, author) for reader in TWO for author in TWO)
    own = read(tmp_path, "seoul", "passwords.json")
    assert set(own) == {"admin", "node", "peer"}
    assert len({*own.values(), *read(tmp_path, "busan", "passwords.json").values()}) == 6
    assert (tmp_path / "seoul" / "evertalk_redis").read_text() == f"redis://node:{own['node']}@seoul-redis:6379"


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    volumes(tmp_path, *TWO)
    made(tmp_path)
    before = contents(tmp_path)
    assert not made(tmp_path)
    assert not made(tmp_path, ["busan", "seoul"])
    assert contents(tmp_path) == before


def test_every_file_with_a_secret_is_its_owners_alone_and_no_region_has_anothers_but_one(tmp_path: Path) -> None:
    volumes(tmp_path, *THREE)
    made(tmp_path, THREE)
    secrets = {
        region: {
            **read(tmp_path, region, "passwords.json"),
            "key": read(tmp_path, region, f"keys/{region}.private.json")["d"],
        }
        for region in THREE
    }
    for name, text in contents(tmp_path).items():
        where = name.partition("/")[0]
        held = {(r, user) for r, own in secrets.items() for user, secret in own.items() if secret.encode() in text}
        foreign = {(r, user) for r, user in held if r != where}
        peers = {(r, "peer") for r in THREE if r != where}
        assert foreign == (peers if name.endswith("evertalk_peers") else set()), name
        if held:
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    assert len(list(tmp_path.rglob("*.private.json"))) == 3


def test_a_region_reaches_a_peer_through_its_own_proxy_and_that_one_through_the_peers_door(tmp_path: Path) -> None:
    volumes(tmp_path, *THREE)
    made(tmp_path, THREE)
    for region in THREE:
        peers = read(tmp_path, region, "evertalk_peers")
        assert set(peers) == set(THREE) - {region}
        ways = doors(tmp_path, region)
        assert len({listen for listen, _ in ways.values()}) == len(ways) == 3 * 3  # in, and out to each of two peers
        for peer, reached in peers.items():
            password = read(tmp_path, peer, "passwords.json")["peer"]
            user, _, address = reached["redis"].rpartition("@")
            assert user == f"redis://peer:{password}"
            for service, place in {"redis": address, **reached["nodes"]}.items():
                proxy, _, port = place.partition(":")
                assert proxy == f"{region}-wan"
                listen, target = ways[f"{region}>{peer}/{service}"]
                assert listen == f"0.0.0.0:{port}"
                far = {f"{peer}-wan:{listen.rpartition(':')[2]}": to for listen, to in doors(tmp_path, peer).values()}
                assert far[target] == (f"{peer}-redis:6379" if service == "redis" else f"{service}:7000")


def test_only_the_ways_out_are_shaped(tmp_path: Path) -> None:
    volumes(tmp_path, *TWO)
    made(tmp_path)
    config = read(tmp_path, "seoul", "wan.json")
    assert config["quality"] == {"delay_ms": 20.0}
    own = {link["name"]: link.get("quality") for link in config["links"]}
    assert {name: quality for name, quality in own.items() if name.startswith("seoul>")} == {
        f"seoul>busan/{service}": None for service in ("redis", "busan-1", "busan-2")
    }
    assert [own[name] for name in own if name.startswith("wan>")] == [{"delay_ms": 0.0}] * 3


def test_a_third_region_joins_and_the_first_two_keep_what_they_had(tmp_path: Path) -> None:
    volumes(tmp_path, *TWO)
    made(tmp_path)
    before, ways = contents(tmp_path), {region: doors(tmp_path, region) for region in TWO}
    volumes(tmp_path, "jeju")
    assert made(tmp_path, ["jeju", "busan", "seoul"])  # in whatever order it is told
    after = contents(tmp_path)
    for name in before:
        if name.endswith((".private.json", "passwords.json", "redis.conf", "users.acl", "evertalk_redis")):
            assert after[name] == before[name], name
    for region in TWO:
        now = doors(tmp_path, region)
        assert {name: now[name] for name in ways[region]} == ways[region]
        assert {name for name in now if name not in ways[region]} == {
            f"{region}>jeju/{service}" for service in ("redis", "jeju-1", "jeju-2")
        }
    assert all(understands(tmp_path, reader, author) for reader in THREE for author in THREE)
    assert not made(tmp_path, THREE)


def test_the_first_two_come_up_again_while_the_third_is_known(tmp_path: Path) -> None:
    volumes(tmp_path, *THREE)
    made(tmp_path, THREE)
    before = contents(tmp_path)
    assert not made(tmp_path, TWO)
    assert contents(tmp_path) == before


def test_a_region_that_lost_its_volume_gets_new_keys_and_the_others_learn_them(tmp_path: Path) -> None:
    volumes(tmp_path, *TWO)
    made(tmp_path)
    old, ways = contents(tmp_path), {region: doors(tmp_path, region) for region in TWO}
    shutil.rmtree(tmp_path / "busan")
    volumes(tmp_path, "busan")
    assert made(tmp_path)
    new = contents(tmp_path)
    for name in ("busan/keys/busan.private.json", "busan/passwords.json"):
        assert new[name] != old[name]
    for name in ("seoul/keys/seoul.private.json", "seoul/passwords.json"):
        assert new[name] == old[name]
    assert all(understands(tmp_path, reader, author) for reader in TWO for author in TWO)
    password = read(tmp_path, "busan", "passwords.json")["peer"]
    assert read(tmp_path, "seoul", "evertalk_peers")["busan"]["redis"].startswith(f"redis://peer:{password}@")
    assert {region: doors(tmp_path, region) for region in TWO} == ways


def test_one_that_was_interrupted_is_made_whole(tmp_path: Path) -> None:
    volumes(tmp_path, *TWO)
    made(tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "busan" / "regions.json").unlink()  # written last
    (tmp_path / "busan" / "wan.json").unlink()
    assert made(tmp_path)
    assert contents(tmp_path) == whole


def test_a_region_without_a_volume_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    volumes(tmp_path, "seoul")
    with pytest.raises(ClusterError, match="mount a volume of region busan there"):
        made(tmp_path)
    assert contents(tmp_path) == {}


def test_a_cluster_is_not_provisioned_without_one_of_its_regions(tmp_path: Path) -> None:
    volumes(tmp_path, *THREE)
    made(tmp_path, THREE)
    (tmp_path / "seoul" / "regions.json").unlink()
    before = contents(tmp_path)
    with pytest.raises(ClusterError, match="jeju belong to this cluster too"):
        made(tmp_path, TWO)
    assert contents(tmp_path) == before


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volumes(tmp_path, *TWO)
    assert main(["--root", str(tmp_path), *TWO]) == 0
    assert main(["--root", str(tmp_path), *TWO]) == 0
    assert main(["--root", str(tmp_path), *THREE]) == 1
    out, err = capsys.readouterr()
    assert out == "seoul, busan: configured\nseoul, busan: configured already\n"
    assert err == f"provision: {tmp_path / 'jeju'} is no directory: mount a volume of region jeju there\n"
