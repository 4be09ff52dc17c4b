"""The `evertalk` command. Slow libraries are imported by the commands that need them, so that --help is quick."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Messaging that stays up when a data centre burns down, and that can prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
drill_app = typer.Typer(help="Break things on purpose, and check.", no_args_is_help=True)
app.add_typer(drill_app, name="drill")

_DATA = Path("evertalk-data")
Driver = Annotated[str, typer.Option(help="What the cluster is made of: process, compose.")]
Directory = Annotated[Path, typer.Option("--dir", help="Directory of the running cluster.")]
MaybeDirectory = Annotated[
    Path | None, typer.Option("--dir", help="Directory of the running cluster.", show_default=str(_DATA))
]
Endpoints = Annotated[
    list[str] | None,
    typer.Option(help="region=host:port, instead of --dir; may be repeated. Or EVERTALK_CLIENT_ENDPOINTS=r=h:p,r=h:p."),
]


def _run(work: Coroutine[Any, Any, int]) -> None:
    """Run to the end; errors meant for people become one line, Ctrl-C becomes 130."""
    from evertalk.core.errors import EvertalkError

    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except asyncio.CancelledError:
        print("terminated", file=sys.stderr)
        code = 143
    except (EvertalkError, OSError) as error:
        print(f"evertalk: {error}", file=sys.stderr)
        code = 1
    except ExceptionGroup as group:
        known, other = group.split(EvertalkError)
        if other is not None:
            raise
        for line in dict.fromkeys(str(leaf) for leaf in _leaves(known)):
            print(f"evertalk: {line}", file=sys.stderr)
        code = 1
    raise typer.Exit(code)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error] if error is not None else []


@app.command()
def up(
    directory: Directory = _DATA,
    regions: Annotated[str, typer.Option(help="Comma-separated names.")] = "seoul,busan",
    nodes: Annotated[int, typer.Option(help="Chat nodes per region.")] = 2,
    shards: Annotated[int, typer.Option(help="Fixed when the cluster is made.")] = 4,
) -> None:
    """Start a cluster of real processes and keep it running until Ctrl-C."""
    from evertalk.console.local import run_up

    _run(run_up(directory, _names(regions), nodes, shards))


@app.command()
def status(
    directory: MaybeDirectory = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Regions, nodes, lag, positions, and whether redundancy is whole. Exit code 0 only if it is.

    Without --dir and without a cluster in ./evertalk-data it asks the nodes that the environment's own node knows.
    """
    from evertalk.console.local import run_status

    _run(run_status(directory, _DATA, as_json))


@app.command()
def chat(
    name: Annotated[str, typer.Option("--as", help="Your handle; made on first use.")],
    directory: MaybeDirectory = None,
    region: Annotated[str, typer.Option(help="Preferred region.")] = "",
    endpoint: Endpoints = None,
    password: Annotated[str, typer.Option(envvar="EVERTALK_PASSWORD", help="Asked for if empty.")] = "",
) -> None:
    """A plain line-based chat."""
    from evertalk.console.chat import run_chat

    _run(run_chat(endpoint or [], directory, _DATA, name, region, password))


@app.command()
def load(
    directory: MaybeDirectory = None,
    endpoint: Endpoints = None,
    users: Annotated[int, typer.Option(help="Simulated people, made anew each time.")] = 20,
    rate: Annotated[float, typer.Option(help="Sends per second, all people together.")] = 50.0,
    seconds: Annotated[float, typer.Option(help="0: until Ctrl-C.")] = 0.0,
    seed: Annotated[int, typer.Option(help="0: a new one each time.")] = 0,
    plain: Annotated[bool, typer.Option(help="No colours even on a terminal.")] = False,
) -> None:
    """Simulated people talk until Ctrl-C, whatever happens meanwhile; exit code 0 if every send was acknowledged."""
    from evertalk.drill.load import run_load

    _run(run_load(endpoint or [], directory, _DATA, users, rate, seconds, seed, plain))


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Report folder; a new one by default.")] = None,
    seed: Annotated[int, typer.Option(help="0: a new one each time.")] = 0,
    plain: Annotated[bool, typer.Option(help="Plain lines even on a terminal.")] = False,
    driver: Driver = "process",
) -> None:
    """Two regions, 40 people talking, one region killed and brought back: about a minute, and a verdict."""
    from evertalk.drill.command import Wishes, run_drill

    _run(run_drill("kill-region", Wishes(out, seconds=36.0, seed=seed, driver=driver, plain=plain)))


@drill_app.command("list")
def drill_list() -> None:
    """Every drill: what it breaks and what must hold."""
    from evertalk.drill.drills import DRILLS

    for drill in DRILLS.values():
        print(f"{drill.name}\n  breaks: {drill.breaks}\n  holds:  {drill.holds}")
        if drill.regions > 2:
            print(f"  needs:  {drill.regions} regions (--regions seoul,busan,jeju)")


@drill_app.command("run")
def drill_run(
    name: str,
    out: Annotated[Path | None, typer.Option(help="Report folder; a new one by default.")] = None,
    users: int = 40,
    rate: Annotated[float, typer.Option(help="Sends per second, all people together.")] = 200.0,
    seconds: Annotated[float | None, typer.Option(help="Length of the load; each drill has its own.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The same in minutes.")] = None,
    seed: Annotated[int, typer.Option(help="0: a new one each time.")] = 0,
    driver: Driver = "process",
    regions: Annotated[str, typer.Option(help="Comma-separated names.")] = "seoul,busan",
    lose_disks: Annotated[bool, typer.Option("--lose-disks", help="A killed region loses its data too.")] = False,
    transcript: Annotated[
        Path | None, typer.Option(help="Play this chat export (KakaoTalk, WhatsApp) as the traffic.")
    ] = None,
    plain: Annotated[bool, typer.Option(help="Plain lines even on a terminal.")] = False,
    times: Annotated[int, typer.Option(help="So many runs, with seeds in a row.")] = 1,
) -> None:
    """Run a drill, or `all` of them; exit code 0 only if every verdict is `held`."""
    from evertalk.drill.command import Wishes, run_drill

    length = minutes * 60 if minutes is not None else seconds
    names = _names(regions)
    wishes = Wishes(out, users, rate, length, seed, driver, names, lose_disks, transcript, plain, times)
    _run(run_drill(name, wishes))


@drill_app.command("table")
def drill_table(directories: list[Path]) -> None:
    """Write a Markdown table of the certificates in or below these folders, each checked against its history."""
    from evertalk.drill.command import run_table

    _run(run_table(directories))


@drill_app.command("verify")
def drill_verify(directory: Path) -> None:
    """Recompute counts, violations and verdict from the history alone; say where the certificate differs."""
    from evertalk.drill.command import run_verify

    raise typer.Exit(run_verify(directory))


def main() -> None:
    """Entry point of the `evertalk` command."""
    app()
