"""Runs a command that must not outlive its controller, even if that is SIGKILLed. Standard library only.

    python guard.py CONTROLLER_PID PIPE_FD COMMAND...

On Linux the kernel does it: PR_SET_PDEATHSIG survives exec, so the guard becomes the command. (It fires when
the *thread* that forked ends: start children from a thread that lives as long as they may.) Elsewhere the guard
stays, and kills its process group once the pipe whose other end the controller holds is closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str]) -> int:
    """Exit code of the command, 127 if it cannot be run, 126 if the controller is gone already."""
    controller, pipe, command = int(argv[1]), int(argv[2]), argv[3:]
    try:
        if pipe >= 0:
            return _watch(pipe, command)
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != controller:  # it died before the kernel was told
            return 126
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"cannot run {command[0]}: {error}", file=sys.stderr)
        return 127


def _watch(pipe: int, command: Sequence[str]) -> int:
    """Run the command in this process group; signals to the group are its business, not the guard's."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_kill_at_end_of, args=(pipe,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _kill_at_end_of(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
