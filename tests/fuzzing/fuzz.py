"""Feeds damaged files to the loaders, for a number of seconds each.

    python tests/fuzzing/fuzz.py [--seconds 60] [--engine mutations] [--found DIR] [HARNESS...]

The engine `atheris` is guided by coverage (pip install atheris; Linux and macOS), and is taken
where it is installed; `mutations` only mutates, and needs nothing. Both use the mutators of
this folder. Every input that is the first of its kind to misbehave is written to the folder of
findings; fixed ones belong into `corpus/<harness>/`, which the test suite replays. A child
process runs each harness, so that a crash of a native library ends one harness, and is told.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))
MEMORY = 3 << 30  # bytes of address space that a child may take beyond what it starts with
_CHILD = "--child"


class Findings:
    """Inputs that misbehaved, one of each kind: the exception, and where it was raised."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.kinds: dict[str, int] = {}

    def add(self, data: bytes, error: BaseException) -> None:
        root = error
        while root.__cause__ is not None or root.__context__ is not None:
            root = root.__cause__ or root.__context__  # type: ignore[assignment]
        frames = traceback.extract_tb(root.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        kind = f"{type(root).__name__} {place}"
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.kinds[kind] > 1:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(data).hexdigest()[:12]
        (self.folder / f"{self.name}-{digest}").write_bytes(data)
        trace = "".join(traceback.format_exception(error))
        (self.folder / f"{self.name}-{digest}.txt").write_text(trace)
        print(f"{self.name}: {kind}: {str(error)[:300]}", flush=True)


def checked(name: str, folder: Path, findings: Findings) -> Callable[[bytes], None]:
    """The check of a harness that notes what misbehaves, and goes on."""
    from tests.fuzzing.harnesses import HARNESSES
    from tests.fuzzing.subjects import subjects

    (folder / "subjects").mkdir()
    (folder / "work").mkdir()
    made = subjects(folder / "subjects")
    harness = HARNESSES[name]

    def check(data: bytes) -> None:
        try:
            harness.check(data, folder / "work", made)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            findings.add(data, error)

    return check


def start(name: str, folder: Path) -> list[bytes]:
    """The corpus of a harness, and its sound files."""
    from tests.fuzzing.harnesses import HARNESSES
    from tests.fuzzing.subjects import subjects

    kept = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]
    return kept + HARNESSES[name].seeds(subjects(folder / "subjects"))


def run_mutations(name: str, seconds: float, seed: int, folder: Path, found: Path) -> int:
    """Mutates what it has seen; returns the number of inputs."""
    from tests.fuzzing.harnesses import mutated

    findings = Findings(name, found)
    check = checked(name, folder, findings)
    corpus, rng = start(name, folder), random.Random(seed)
    sound = len(corpus)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(name, rng.choice(corpus), rng)
        check(data)
        count += 1
        if rng.random() < 0.05 and len(data) < 20_000:  # mutations of mutations
            kept = corpus[:sound] if len(corpus) > 200 else corpus
            corpus = [*kept, data]
    return count


def run_atheris(name: str, seconds: float, seed: int, folder: Path, found: Path) -> None:
    """Hands over to libFuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["lipcompile", "onnx_ir"]):
        import lipcompile
        from tests.fuzzing.harnesses import mutated

        # Commands load theirs when they are called, and atheris tells of each.
        for module in pkgutil.walk_packages(lipcompile.__path__, "lipcompile."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        findings = Findings(name, found)
        check = checked(name, folder, findings)
        inputs = folder / "corpus"
        inputs.mkdir()
        for index, data in enumerate(start(name, folder)):
            (inputs / str(index)).write_bytes(data)
            check(data)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.2:
            return bytes(atheris.Mutate(data, len(data) + 20))
        return mutated(name, bytes(data), rng)[:max_size]

    arguments = [sys.argv[0], str(inputs), f"-max_total_time={int(seconds)}", f"-seed={seed}"]
    arguments += ["-timeout=60", "-rss_limit_mb=4000", "-max_len=65536", "-verbosity=0"]
    arguments += [f"-artifact_prefix={found}/{name}-native-", "-print_final_stats=1"]
    found.mkdir(parents=True, exist_ok=True)
    atheris.Setup(arguments, check, custom_mutator=mutator)
    atheris.Fuzz()


def limit_memory(extra: int = MEMORY) -> None:
    """An input that would take more ends in a MemoryError."""
    with open("/proc/self/statm") as stream:
        held = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + extra, resource.RLIM_INFINITY))


def child(arguments: argparse.Namespace) -> None:
    (name,) = arguments.harnesses
    with tempfile.TemporaryDirectory(prefix="lipcompile-fuzz-") as folder:
        import onnxruntime  # noqa: F401  (its address space is no input's)

        limit_memory()
        way = (name, arguments.seconds, arguments.seed, Path(folder), arguments.found)
        if arguments.engine == "atheris":
            run_atheris(*way)
        else:
            print(f"{name}: {run_mutations(*way)} inputs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("harnesses", nargs="*", metavar="HARNESS")
    parser.add_argument("--seconds", type=float, default=60, help="for each harness")
    engine = "atheris" if importlib.util.find_spec("atheris") else "mutations"
    parser.add_argument("--engine", choices=["atheris", "mutations"], default=engine)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz-findings"))
    parser.add_argument(_CHILD, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    from tests.fuzzing.harnesses import HARNESSES

    before = set(arguments.found.glob("*"))
    failed = []
    for name in arguments.harnesses or HARNESSES:
        words = [sys.executable, __file__, _CHILD, name, "--engine", arguments.engine]
        words += ["--seconds", str(arguments.seconds), "--seed", str(arguments.seed)]
        print(f"== {name}", flush=True)
        done = subprocess.run([*words, "--found", str(arguments.found)], env=os.environ)
        if done.returncode:
            failed.append(f"{name} ended with {done.returncode}")
    fresh = sorted(str(path) for path in set(arguments.found.glob("*")) - before)
    print("\n".join([*failed, *fresh]) or "nothing found")
    sys.exit(bool(failed or fresh))


if __name__ == "__main__":
    main()
