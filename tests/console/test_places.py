"""Whom `evertalk status` asks."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from evertalk.adapters.launch import BadSettings, load
from evertalk.adapters.settings import NodeSettings
from evertalk.adapters.tokens import make_keys
from evertalk.cluster.verbs import ClusterError
from evertalk.console.places import find_operator, places_of
from evertalk.console.status import Operator, Place

ENVIRONMENT = {
    "EVERTALK_REGION": "busan",
    "EVERTALK_NODE": "busan-1",
    "EVERTALK_LISTEN": "0.0.0.0:7000",
    "EVERTALK_REDIS": "redis://node:secret@redis:6379",
    "EVERTALK_STORE": "store.db",
    "EVERTALK_KEYS": "keys",
    "EVERTALK_NEIGHBOURS": json.dumps({"busan-2": "busan-2:7000"}),
    "EVERTALK_PEERS": json.dumps({"seoul": {"redis": "redis://p:p@wan:1", "nodes": {"seoul-1": "wan:7011"}}}),
}


@pytest.fixture
def in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_a_container")
def test_a_node_knows_itself_its_neighbours_and_its_peers_through_the_wan() -> None:
    assert places_of(load(NodeSettings)) == [
        Place("busan", "busan-1", "127.0.0.1:7000"),
        Place("busan", "busan-2", "busan-2:7000"),
        Place("seoul", "seoul-1", "wan:7011"),
    ]


@pytest.mark.usefixtures("in_a_container")
def test_a_node_that_listens_on_one_address_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERTALK_LISTEN", "10.0.0.7:7000")
    assert places_of(load(NodeSettings))[0].address == "10.0.0.7:7000"


@pytest.mark.usefixtures("in_a_container")
def test_a_named_directory_comes_before_the_environment(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no cluster runs in"):
        find_operator(tmp_path, tmp_path)


@pytest.mark.usefixtures("in_a_container")
def test_an_environment_that_is_not_whole_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERTALK_KEYS")
    with pytest.raises(BadSettings, match="EVERTALK_KEYS"):
        find_operator(None, tmp_path)


def test_without_a_node_s_environment_there_must_be_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERTALK_NODE", "EVERTALK_SECRETS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ClusterError, match="no cluster runs in"):
        find_operator(None, tmp_path)


async def test_a_node_that_takes_long_to_connect_to_is_given_its_time_once_and_a_region_without_nodes_is_named(
    tmp_path: Path,
) -> None:
    make_keys(tmp_path, ["busan"])
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # connections succeed, and then nothing is said
        place = Place("busan", "busan-1", f"127.0.0.1:{hangs.getsockname()[1]}")
        operator = Operator([place], {"busan": str(tmp_path)}, regions=["seoul", "busan"])
        try:
            look = await operator.look()
        finally:
            await operator.close()
    assert "DEADLINE_EXCEEDED" in look.silent["busan-1"]
    assert look.redundancy.reasons == ["busan has not been heard from", "seoul has not been heard from"]
    assert not look.redundancy.whole
