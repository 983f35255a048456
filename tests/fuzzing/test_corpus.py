"""Every input that once misbehaved, and the sound files, go through their harness again."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzzing import watching
from tests.fuzzing.harnesses import HARNESSES, mutated
from tests.fuzzing.subjects import Subjects, subjects

CORPUS = Path(__file__).parent / "corpus"
KEPT = [(path.parent.name, path) for path in sorted(CORPUS.glob("*/*"))]
_MUTATIONS = 25
_ALL_BYTES = 500_000


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Subjects:
    return subjects(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """2 GiB beyond what the process holds: what claims more ends in a MemoryError."""
    if not sys.platform.startswith("linux"):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), before[1])
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("name", "path"), KEPT, ids=[f"{name}-{path.name}" for name, path in KEPT]
)
def test_what_was_found_stays_mended(
    name: str, path: Path, tmp_path: Path, made: Subjects
) -> None:
    HARNESSES[name].check(path.read_bytes(), tmp_path, made)


@pytest.mark.parametrize("name", HARNESSES)
def test_sound_files_and_a_few_damaged_ones(name: str, tmp_path: Path, made: Subjects) -> None:
    for data in HARNESSES[name].seeds(made):
        HARNESSES[name].check(data, tmp_path, made)
        for seed in range(_MUTATIONS // len(HARNESSES[name].seeds(made)) + 1):
            HARNESSES[name].check(mutated(name, data, random.Random(seed)), tmp_path, made)


def test_the_corpus_is_small_and_belongs_to_harnesses() -> None:
    assert {name for name, _ in KEPT} <= set(HARNESSES)
    assert sum(path.stat().st_size for _, path in KEPT) < _ALL_BYTES


# The checks themselves


def test_what_must_not_happen_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every kind of misbehaviour, from a command that does it."""
    kept = tmp_path / "kept"

    def play(act):
        kept.write_bytes(b"kept")
        (tmp_path / "left").unlink(missing_ok=True)
        monkeypatch.setattr(watching.main, "run", act)
        return watching.command("inspect", kept)

    def refuses(_):
        print("error: no", file=sys.stderr)
        return 2

    assert play(refuses) == 2
    assert play(lambda _: 0) == 0
    for act, message in (
        (lambda _: 3, "exit code 3"),
        (lambda _: 1, "exit code 1"),
        (lambda _: 2, "without a message"),
        (lambda _: print("\x1b[2J") or 0, "printed as it is"),
        (lambda _: print("error: a defect of LipCompile", file=sys.stderr) or 4, "a defect"),
        (lambda _: kept.write_bytes(b"other") and 0, "was written, changed or removed"),
        (lambda _: (tmp_path / "left").write_bytes(b"x") and 0, "was written, changed"),
        (lambda _: kept.unlink() or 0, "was written, changed or removed"),
    ):
        with pytest.raises(watching.Defect, match=message):
            play(act)

    def warns(_):
        import warnings

        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
        return 0

    with pytest.raises(RuntimeWarning, match="overflow"):
        play(warns)


def test_a_hang_is_seen() -> None:
    with pytest.raises(watching.Hang), watching.time_limit(1):
        time.sleep(5)


def test_the_runner_reports_what_it_finds(tmp_path: Path) -> None:
    """Planted: a loader that raises on every file that is damaged enough."""
    program = tmp_path / "planted.py"
    fuzz = Path(__file__).parent / "fuzz.py"
    program.write_text(
        "import runpy, sys\n"
        f"sys.argv[0] = {str(fuzz)!r}\n"
        f"sys.path.insert(0, {str(fuzz.parent.parent.parent)!r})\n"
        "from tests.fuzzing import harnesses\n"
        "def broken(path, classes):\n"
        "    raise ZeroDivisionError('planted')\n"
        "harnesses.read_label_table = broken\n"
        f"runpy.run_path({str(fuzz)!r}, run_name='__main__')\n"
    )
    found = tmp_path / "found"
    words = ["--child", "labels", "--engine", "mutations", "--seconds", "1"]
    done = subprocess.run(
        [sys.executable, str(program), *words, "--found", str(found)],
        capture_output=True,
        text=True,
    )
    assert "labels: ZeroDivisionError planted.py" in done.stdout, done.stderr
    assert len(list(found.glob("labels-*.txt"))) == 1, "one of each kind"
