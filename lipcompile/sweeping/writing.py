"""The files of a sweep: the chosen model, its table, and its c_r per layer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from lipcompile import atomic, model_io
from lipcompile.errors import OutputError
from lipcompile.sweeping.command import harden_command
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

    def write_table(self, bench: Bench) -> None:
        """Writes the table, whatever was chosen.

        Raises:
            SaveError: Writing failed.
        """
        if self.table is not None and bench.table is not None:
            bench.table.save(self.table)

    def write_c_r(self, setting: Setting) -> None:
        """Writes c_r per layer as TOML, where the setting has any; SaveError as above."""
        if self.c_r is None or not setting.by_layer:
            return
        lines = [
            f'{json.dumps(pattern, ensure_ascii=False)} = "{ratio(c_r)}"\n'
            for pattern, c_r in setting.patterns.items()
        ]
        atomic.write_bytes(self.c_r, "".join(lines).encode())

    def write(
        self, bench: Bench, setting: Setting, calib: object, *, keep_model: bool
    ) -> str | None:
        """Writes what was asked for of the chosen setting; the model only if it may stay.

        Returns:
            The command that makes the same model; None where no file names it.

        Raises:
            SaveError: Writing failed.
        """
        self.write_c_r(setting)
        if self.model is not None and keep_model:
            whole = bench.table if self.table is not None else None
            task, compiled = bench.build(setting, whole)
            model_io.save(task.loaded, compiled.proto, self.model)
        return harden_command(bench, setting, calib, self.table, self.c_r)
