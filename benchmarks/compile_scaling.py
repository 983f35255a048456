"""How do time and memory of `lipcompile harden --table` grow with the model?

Two questions:

1. With the number of nodes: seconds and peak resident memory of `inspect` and `harden`, each
   in a process of its own, on Transformer blocks of width 4. What ONNX Runtime needs to load
   the result once, as the check does, is given apart: it is not linear in the nodes. If
   LipCompile is, the last column stays the same.
2. With the bytes of external data: the whole command against `cp` of the model's files, and
   against `cp` and fsync of them, which the command does as well. Runs are interleaved, and
   the order changes each time. Budget: 1.3 times `cp`, 200 MB of resident memory.

    python benchmarks/compile_scaling.py [--full] [--rounds N] [--folder FOLDER]
        [--nodes N ...] [--megabytes N ...]

`--full` adds a million nodes, for `inspect` alone. FOLDER needs three times the largest model
(12 GB), and is emptied again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scaled_models import deep_model, heavy_model

import lipcompile
from lipcompile import CalibrationTable, model_io, runtime
from lipcompile.calibration.table import DataRecord, SiteRange
from lipcompile.sites import find_sites

MILLION = 1_000_000


def table_of(path: Path) -> Path:
    """A table with a made-up maximum for every site."""
    loaded = model_io.load(path)
    sites = find_sites(loaded.graph_ir).sites
    rows = tuple(
        SiteRange(site.tensor, site.dtype, 1.0 + index % 7) for index, site in enumerate(sites)
    )
    data = DataRecord("npz", "made up", 1, "0" * 64)
    table = CalibrationTable(loaded.digest, path.name, rows, data, None, {}, "none")
    target = path.with_name("table.json")
    table.save(target)
    return target


def work(what: str, folder: Path) -> None:
    """One measurement in a fresh process; prints it as JSON."""
    loading = [0.0]
    honest = runtime.open_session

    def timed(*arguments: object, **options: object) -> object:
        start = time.perf_counter()
        session = honest(*arguments, **options)
        loading[0] += time.perf_counter() - start
        return session

    runtime.open_session = timed
    start = time.perf_counter()
    if what == "inspect":
        str(lipcompile.inspect(folder / "model.onnx"))
    else:
        table, output = folder / "table.json", folder / "out.onnx"
        lipcompile.harden(folder / "model.onnx", table=table, output=output)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, loading[0], peak_mb()]))


def measured(what: str, folder: Path) -> tuple[float, float, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--work", what, "--folder", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, loading, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, loading, peak


def by_nodes(sizes: list[int], folder: Path, rounds: int) -> None:
    for nodes in sizes:
        path = folder / "model.onnx"
        model = deep_model(nodes)
        count = len(model.graph.node)
        path.write_bytes(model.SerializeToString())
        del model
        kinds = ["inspect"]
        if nodes < MILLION:
            table_of(path)
            kinds.append("harden")
        for what in kinds:
            runs = []
            for _ in range(rounds if nodes <= 10_000 else 1):
                (folder / "out.onnx").unlink(missing_ok=True)
                runs.append(measured(what, folder))
            own = [seconds - loading for seconds, loading, _ in runs]
            loading, peak = (float(np.median([r[i] for r in runs])) for i in (1, 2))
            print(
                f"  {what}, {count} nodes: {np.median(own):.2f} s "
                f"(min {min(own):.2f}, max {max(own):.2f}, n = {len(own)}), "
                f"ONNX Runtime loads for {loading:.2f} s, peak {peak:.0f} MB; "
                f"{1e6 * np.median(own) / count:.0f} us per node",
                flush=True,
            )


def peak_mb() -> float:
    """Largest resident memory of this process, pages of mapped files included.

    Not `ru_maxrss`: that of a child begins with what its parent held when it was forked.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def command(folder: Path, target: Path) -> float:
    """Runs the whole command; returns its peak resident memory in MB."""
    code = (
        "import sys; from lipcompile.cli.main import load_later, run; load_later(); "
        "code = run(sys.argv[1:]); "
        "status = open('/proc/self/status').read(); "
        "print(status.partition('VmHWM:')[2].split()[0]); sys.exit(code)"
    )
    flags = ["--table", folder / "table.json", "--form", "hard", "-o", target / "out.onnx"]
    done = subprocess.run(
        [sys.executable, "-c", code, "harden", folder / "model.onnx", *flags, "-q"],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout) / 1024


def copied(folder: Path, target: Path, synced: bool) -> None:
    files = [folder / "model.onnx", folder / "weights.bin"]
    subprocess.run(["cp", *files, target], check=True)
    if synced:
        subprocess.run(["sync", *(target / path.name for path in files)], check=True)


def by_bytes(sizes: list[int], folder: Path, rounds: int) -> None:
    for megabytes in sizes:
        source, target = folder / "heavy", folder / "target"
        source.mkdir()
        table_of(heavy_model(source, megabytes))
        peaks: list[float] = []
        actions: dict[str, Callable[[], object]] = {
            "harden": lambda s=source, t=target, p=peaks: p.append(command(s, t)),
            "cp": lambda s=source, t=target: copied(s, t, synced=False),
            "cp and fsync": lambda s=source, t=target: copied(s, t, synced=True),
        }
        taken: dict[str, list[float]] = {name: [] for name in actions}
        for index in range(rounds):
            for name in [*actions][index % 3 :] + [*actions][: index % 3]:
                target.mkdir()
                os.sync()
                start = time.perf_counter()
                actions[name]()
                taken[name].append(time.perf_counter() - start)
                shutil.rmtree(target)
        print(
            f"  {megabytes} MiB: harden {np.median(taken['harden']):.2f} s, peak "
            f"{max(peaks):.0f} MB",
            flush=True,
        )
        for name in ("cp", "cp and fsync"):
            ratios = np.divide(taken["harden"], taken[name])
            low, median, high = np.quantile(ratios, [0.0, 0.5, 1.0])
            print(
                f"    harden / {name}: {median:.2f} (min {low:.2f}, max {high:.2f}, "
                f"n = {rounds}); {name} {np.median(taken[name]):.2f} s",
                flush=True,
            )
        shutil.rmtree(source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--megabytes", type=int, nargs="*", default=[256, 1024, 4096])
    parser.add_argument("--work", choices=["inspect", "harden"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.folder)
        return
    nodes = [*arguments.nodes, *([MILLION] if arguments.full else [])]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print("by number of nodes, without what ONNX Runtime needs:")
        by_nodes(nodes, Path(folder), arguments.rounds)
        print("by bytes of external data, the whole command:")
        by_bytes(arguments.megabytes, Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
