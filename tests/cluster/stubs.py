"""Commands that run stubs in place of nodes and replicators."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def stub_command(kind: str, name: str) -> Sequence[str]:
    """A health service that answers for `name`."""
    return [sys.executable, str(Path(__file__).with_name("stub_service.py")), kind, name]
