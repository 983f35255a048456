"""Commands that are killed at random moments, while they write a journal 20 times a second."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_RUN = """
import sys
from lipcompile.calibration import journal
from lipcompile.cli.main import main
journal.SECONDS = 0.05
main(sys.argv[1:])
"""


def start(arguments: Sequence[object], folder: Path) -> subprocess.Popen[str]:
    """The command line in a process of its own, in `folder`."""
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill_and_finish(
    arguments: Sequence[object], folder: Path, seconds: float, rng: random.Random
) -> tuple[int, str]:
    """Starts the command and kills it, again and again, until it ends before it is killed.

    Args:
        arguments: Of the command line.
        folder: Where it runs.
        seconds: What the command takes at most: it is killed within this time.
        rng: Draws the moments.

    Returns:
        How often it was killed, and what it said on standard error at last.
    """
    kills = 0
    while True:
        running = start(arguments, folder)
        deadline = time.monotonic() + rng.uniform(0.1, 1.0) * seconds * 1.5**kills
        try:
            _, err = running.communicate(timeout=deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            kills += 1
            continue
        assert running.returncode == 0, err
        return kills, err
