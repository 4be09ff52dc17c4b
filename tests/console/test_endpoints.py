"""How endpoints are written, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from evertalk.client import Endpoint
from evertalk.cluster.verbs import ClusterError
from evertalk.console.endpoints import VARIABLE, BadEndpoint, find_endpoints, parse_endpoint, prefer, regions_of

SEOUL, BUSAN, ELSEWHERE = Endpoint("seoul", "s:1"), Endpoint("busan", "b:2"), Endpoint("seoul", "t:3")


@pytest.mark.parametrize(
    ("text", "region", "address"),
    [
        ("seoul=127.0.0.1:7011", "seoul", "127.0.0.1:7011"),
        (" busan=busan-1:7000 ", "busan", "busan-1:7000"),
        ("seoul=[::1]:7011", "seoul", "[::1]:7011"),
    ],
)
def test_an_endpoint_is_a_region_a_host_and_a_port(text: str, region: str, address: str) -> None:
    assert parse_endpoint(text) == Endpoint(region, address)


@pytest.mark.parametrize(
    "text",
    ["", "seoul", "seoul=", "=a:1", "seoul=a", "seoul=:1", "seoul=a:", "seoul=a:b", "seoul=a:0", "seoul=a:65536",
     "seoul=::1", "seoul=::1:7011", "seoul=a:-1"],
)  # fmt: skip
def test_anything_else_is_shown_to_who_typed_it(text: str) -> None:
    with pytest.raises(BadEndpoint, match="region=host:port"):
        parse_endpoint(text)


def test_named_endpoints_come_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "busan=b:2")
    assert find_endpoints(["seoul=s:1"], None, tmp_path) == [SEOUL]


def test_the_environment_holds_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "seoul=s:1, busan=b:2,")
    assert find_endpoints([], None, tmp_path) == [SEOUL, BUSAN]
    monkeypatch.setenv(VARIABLE, "seoul")
    with pytest.raises(BadEndpoint, match=VARIABLE):
        find_endpoints([], None, tmp_path)


def test_a_named_directory_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "busan=b:2")
    with pytest.raises(ClusterError, match="named"):
        find_endpoints([], tmp_path / "named", tmp_path / "default")
    monkeypatch.setenv(VARIABLE, " ")
    with pytest.raises(ClusterError, match="default"):
        find_endpoints([], None, tmp_path / "default")


def test_the_preferred_region_goes_first_and_must_exist() -> None:
    given = [SEOUL, BUSAN, ELSEWHERE]
    assert prefer(given, "busan") == [BUSAN, SEOUL, ELSEWHERE]
    assert prefer(given, "") == given
    assert regions_of(given) == ["seoul", "busan"]
    with pytest.raises(BadEndpoint, match="there are: busan, seoul"):
        prefer(given, "jeju")
