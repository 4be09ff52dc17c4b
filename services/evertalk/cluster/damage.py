"""Damages what a dead process has stored, or keeps a copy to put back later. Standard library only.

    python -m evertalk.cluster.damage WAY DIRECTORY [SEED]

prints a sentence that says what was done; for containers, whose disks the controller cannot reach.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_STORE = "store.db"
_LOG = "appendonlydir"
_KEPT = "kept"
_PAGE = 4096
_FLIPS = 32


def _delete_store(directory: Path, chance: random.Random) -> str:
    for path in directory.glob(f"{_STORE}*"):
        path.unlink()
    return "the store's files were deleted"


def _truncate_store(directory: Path, chance: random.Random) -> str:
    path = directory / _STORE
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    return f"the store's file was cut from {size} to {size // 2} bytes"


def _flip_store(directory: Path, chance: random.Random) -> str:
    path = directory / _STORE
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(_FLIPS):
            at = chance.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << chance.randrange(8))]))
    return f"{_FLIPS} bits of the store's {size} bytes were flipped"


def _tear_store(directory: Path, chance: random.Random) -> str:
    path = directory / _STORE
    pages = path.stat().st_size // _PAGE
    page = chance.randrange(pages)
    with path.open("r+b") as file:
        file.seek(page * _PAGE)
        file.write(chance.randbytes(_PAGE))
    return f"page {page} of the store's {pages} was overwritten with noise"


def _keep_log(directory: Path, chance: random.Random) -> str:
    shutil.rmtree(directory / _KEPT, ignore_errors=True)
    shutil.copytree(directory / _LOG, directory / _KEPT)
    return "a copy of the append-only files was kept"


def _roll_back_log(directory: Path, chance: random.Random) -> str:
    shutil.rmtree(directory / _LOG)
    shutil.copytree(directory / _KEPT, directory / _LOG)
    return "the append-only files are the kept ones again"


#: Way -> what does it. `keep_log` works on a living Redis, the others need a dead process.
WAYS: Mapping[str, Callable[[Path, random.Random], str]] = {
    "delete_store": _delete_store,
    "truncate_store": _truncate_store,
    "flip_store": _flip_store,
    "tear_store": _tear_store,
    "keep_log": _keep_log,
    "roll_back_log": _roll_back_log,
}
HARMLESS = frozenset({"keep_log"})


def do(way: str, directory: Path, seed: int) -> str:
    """Do it; returns a sentence.

    Args:
        way: one of WAYS.
        directory: where the process stores.

    Raises:
        OSError: there is nothing to damage. KeyError: no such way.
    """
    return WAYS[way](directory, random.Random(seed))


def main(arguments: list[str]) -> int:
    """One way from a shell; 1 if it could not be done."""
    way, directory, *seed = arguments
    try:
        print(do(way, Path(directory), int(seed[0]) if seed else 0))
    except (OSError, KeyError, ValueError) as error:
        print(f"{way}: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
