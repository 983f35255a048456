"""The files of a sweep: the chosen model, its table, and its c_r per layer."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from lipcompile import atomic, model_io
from lipcompile.errors import OutputError
from lipcompile.sweeping.settings import Setting, ratio
from lipcompile.sweeping.trial import Bench


@dataclass(frozen=True, slots=True)
class Targets:
    """Where they go, where they go anywhere."""

    model: Path | None
    table: Path | None
    c_r: Path | None

    @classmethod
    def named(
        cls,
        model: str | os.PathLike[str] | None,
        table: str | os.PathLike[str] | None,
        c_r: str | os.PathLike[str] | None,
    ) -> Targets:
        return cls(*(Path(x) if x is not None else None for x in (model, table, c_r)))

    def check(self, force: bool, inputs: tuple[Path, ...]) -> None:
        """All can be written, and are different files.

        Raises:
            OutputError: They are not.
        """
        named = [path for path in (self.model, self.table, self.c_r) if path is not None]
        for path in named:
            model_io.check_output(path, force, inputs)
        for one, other in combinations(named, 2):
            if one.resolve() == other.resolve():
                raise OutputError(f"two results would be written to '{one}': name two files")

    def write(
        self, bench: Bench, setting: Setting, calib: object, *, keep_model: bool
    ) -> str | None:
        """Writes what was asked for; the model only where it may be kept.

        Returns:
            The command that makes the same model; None where no file names it.

        Raises:
            SaveError: Writing failed.
        """
        if self.table is not None and bench.table is not None:
            bench.table.save(self.table)
        if self.c_r is not None and setting.by_layer:
            lines = [
                f'{json.dumps(pattern)} = "{ratio(c_r)}"\n'
                for pattern, c_r in setting.patterns.items()
            ]
            atomic.write_bytes(self.c_r, "".join(lines).encode())
        if self.model is not None and keep_model:
            task, compiled = bench.build(setting)
            model_io.save(task.loaded, compiled.proto, self.model)
        return self._command(bench, setting, calib)

    def _command(self, bench: Bench, setting: Setting, calib: object) -> str | None:
        if bench.source.path is None or (setting.by_layer and self.c_r is None):
            return None
        words = ["lipcompile harden", shlex.quote(str(bench.source.path))]
        if setting.c_r is not None:
            is_path = isinstance(calib, str | os.PathLike)
            source = ("--calib", calib) if is_path else ("--table", self.table)
            if self.table is not None:
                source = ("--table", self.table)
            if source[1] is None:
                return None
            words.append(f"{source[0]} {shlex.quote(str(source[1]))}")
        words.append(setting.flags(str(self.c_r) if self.c_r is not None else None))
        return " ".join(words)
