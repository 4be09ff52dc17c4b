"""How a process starts and ends: settings, logging, and one sentence for what goes wrong."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from evertalk.adapters.settings import RegionSettings
from evertalk.core.errors import EvertalkError

#: sysexits.h: EX_CONFIG, EX_UNAVAILABLE
CONFIG, UNAVAILABLE = 78, 69
_PREFIX = "EVERTALK_"
_NAMED = (EvertalkError, OSError)

S = TypeVar("S", bound=RegionSettings)


class BadSettings(EvertalkError):
    """A setting is missing or makes no sense; the sentence names the variable, and never its value."""


#: Names a directory with settings that are no business of the environment's: a file `evertalk_redis` and so on.
SECRETS_VARIABLE = "EVERTALK_SECRETS"
_LOOK_S = 2.0
#: Objects made, of young collections, and of middle ones: https://docs.python.org/3/library/gc.html
_COLLECT_AFTER = (20_000, 10, 5)
#: What the last `load` found in the directory of secrets, by file.
_loaded: dict[str, bytes] = {}


def secrets_directory() -> Path | None:
    """Where settings lie besides the environment, if anywhere."""
    named = os.environ.get(SECRETS_VARIABLE)
    return Path(named) if named else None


def load(kind: type[S]) -> S:
    """Settings from the environment, and from the files of the directory that EVERTALK_SECRETS names.

    Raises:
        BadSettings
    """
    secrets = secrets_directory()
    if secrets is not None and not secrets.is_dir():
        raise BadSettings(f"{SECRETS_VARIABLE}: there is no directory {secrets}")
    _loaded.clear()
    _loaded.update(_contents(secrets) if secrets else {})  # before it is read: a change meanwhile is seen
    try:
        return kind(_secrets_dir=secrets)
    except ValidationError as error:
        wrong = [f"{_PREFIX}{str(e['loc'][0]).upper()}: {e['msg'].lower()}" for e in error.errors(include_input=False)]
        raise BadSettings("; ".join(wrong)) from error
    except SettingsError as error:
        field = str(error).split('"')[1:2]
        name = f"{_PREFIX}{field[0].upper()}" if field else "a setting"
        raise BadSettings(f"{name}: it is not the JSON that it should be") from error


async def until_changed() -> None:
    """Until a file in the directory of secrets says something else than `load` found; for ever if there is none."""
    secrets = secrets_directory()
    if secrets is None:
        await asyncio.Event().wait()
        return
    while _contents(secrets) == _loaded:  # noqa: ASYNC110  nobody tells of a changed file
        await asyncio.sleep(_LOOK_S)


async def follow(take: Callable[[], None]) -> None:
    """Take in the settings after every change; what cannot be used is tried again until it can; until cancelled.

    Args:
        take: loads and uses them; an EvertalkError says that they are no good (a key may arrive after the peer
            that it belongs to, without another change of the settings).
    """
    log = structlog.get_logger()
    refused = ""
    while True:
        if refused:
            await asyncio.sleep(_LOOK_S)
        else:
            await until_changed()
        try:
            take()
        except EvertalkError as error:
            if str(error) != refused:  # said once, not at every try
                log.error("the changed configuration cannot be used", reason=str(error))
            refused = str(error)
        else:
            refused = ""


def _contents(directory: Path) -> dict[str, bytes]:
    """By name; one with a suffix is just being written, and takes its place when it is whole."""
    files = (path for path in sorted(directory.glob("evertalk_*")) if path.is_file() and not path.suffix)
    return {path.name: path.read_bytes() for path in files}


def log_to_stderr(level: str) -> None:
    """JSON lines on stderr from now on."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run(name: str, kind: type[S], serve: Callable[[S], Coroutine[Any, Any, None]]) -> int:
    """Load settings and serve; returns the exit code: 0 stopped, 78 wrong settings, 69 cannot serve."""
    try:
        settings = load(kind)
    except BadSettings as error:
        print(f"{name}: settings: {error}", file=sys.stderr)
        return CONFIG
    log_to_stderr(settings.log_level)
    _collect_seldom()
    try:
        asyncio.run(serve(settings))
    except (*_NAMED, ExceptionGroup) as error:
        leaves = _leaves(error)
        if not all(isinstance(leaf, _NAMED) for leaf in leaves):
            raise
        for sentence in dict.fromkeys(f"{name}: {type(leaf).__name__}: {leaf}" for leaf in leaves):
            print(sentence, file=sys.stderr)
        return UNAVAILABLE
    return 0


def _collect_seldom() -> None:
    """Modules are never garbage, and what a message leaves behind forms no cycles: looking for some after every 700
    objects took much of a node's time under full load. What does form cycles can wait, but not for ever: a session that
    is cut by name leaves 20 KB, too old by then for any but a whole collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
