"""What the scripts share: their arguments, the models to look at, and how tables print."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcompile import atomic, text
from lipcompile.cli.options import parse_numbers
from lipcompile.errors import LipCompileError, OptionError

_KEYS = {"model", "calibration", "data", "labels", "eps", "eps_l2"}
_FLAGS = {"mean", "std", "rescale", "input_size"}  # of lipcompile's image preprocessing


@dataclass(frozen=True, slots=True)
class Case:
    """One model with its data.

    Attributes:
        name: How tables call it.
        model: ONNX file.
        calibration: Images that thresholds come from.
        data: Labelled images that are attacked.
        labels: Labels that are not in the data itself.
        eps: linf radius in pixel units in [0, 1], such as "8/255".
        eps_l2: l2 radius, for the table of norms.
        flags: How images become inputs, as `ScanOptions.image_flags`.
    """

    name: str
    model: Path
    calibration: Path
    data: Path
    labels: Path | None = None
    eps: str = "8/255"
    eps_l2: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """How everything is measured.

    Attributes:
        results: Folder of finished cells: a script that is started again goes on from there.
        images: Attacked per model.
        attacks: "fast", "standard" or "trial".
        seed: Of images and attacks.
        threads: Of ONNX Runtime and torch; 0 lets them choose.
        markdown: Print Markdown instead of aligned text.
    """

    results: Path
    images: int
    attacks: str
    seed: int
    threads: int
    markdown: bool

    def show(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints one table."""
        print(f"\n**{title}**\n" if self.markdown else f"\n{title}\n")
        if not self.markdown:
            print("\n".join(text.table(header, rows)))
            return
        for row in (header, ["---"] * len(header), *rows):
            print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")

    def say(self, *lines: str) -> None:
        """Prints sentences below a table."""
        print()
        for line in lines:
            print(f"- {line}")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all scripts have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, help="an ONNX model, or a TOML file of models")
    parser.add_argument("--root", type=Path, help="what paths of the TOML file start from")
    parser.add_argument("--models", help="of the TOML file, only these: names with commas")
    parser.add_argument("--calib", type=Path, help="for an ONNX model: calibration images")
    parser.add_argument("--data", type=Path, help="for an ONNX model: labelled images")
    parser.add_argument("--labels", type=Path, help="labels that are not in the data")
    parser.add_argument("--eps", default="8/255", help="linf radius in [0, 1]")
    parser.add_argument("--eps-l2", help="l2 radius in pixel units")
    parser.add_argument("--mean", help="of the normalisation, with commas")
    parser.add_argument("--std", help="the same")
    parser.add_argument("--results", type=Path, default=Path("paper-results"), metavar="DIR")
    parser.add_argument("--images", type=int, default=100, help="attacked per model")
    parser.add_argument("--attacks", default="fast", choices=("fast", "standard", "trial"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--markdown", action="store_true", help="for pages, not terminals")
    return parser


def read(arguments: argparse.Namespace) -> tuple[tuple[Case, ...], Options]:
    """The models and how to measure them.

    Raises:
        OptionError: The arguments do not fit together.
    """
    if arguments.images < 1:
        raise OptionError(f"--images {arguments.images}: give 1 or more")
    options = Options(
        arguments.results,
        arguments.images,
        arguments.attacks,
        arguments.seed,
        arguments.threads,
        arguments.markdown,
    )
    if arguments.cases.suffix == ".toml":
        return _selected(
            _from_file(arguments.cases, arguments.root), arguments.models
        ), options
    if arguments.calib is None or arguments.data is None:
        raise OptionError(
            f"'{arguments.cases}' is one model, which needs images: add --calib and --data, "
            "or name a TOML file of models"
        )
    flags = {name: parse_numbers(name, getattr(arguments, name)) for name in ("mean", "std")}
    case = Case(
        arguments.cases.stem,
        arguments.cases,
        arguments.calib,
        arguments.data,
        arguments.labels,
        arguments.eps,
        arguments.eps_l2,
        {name: value for name, value in flags.items() if value is not None},
    )
    return (case,), options


def _from_file(path: Path, root: Path | None) -> tuple[Case, ...]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"'{path}' cannot be read as TOML ({error}): mend it") from error
    return tuple(
        _case(path, name, said, root or path.parent) for name, said in content.items()
    )


def _case(path: Path, name: str, said: Any, root: Path) -> Case:
    if not isinstance(said, dict):
        raise OptionError(f"'{path}': '{name}' is no table: write [{name}] above its keys")
    unknown = sorted(said.keys() - _KEYS - _FLAGS)
    missing = sorted({"model", "calibration", "data", "eps"} - said.keys())
    if unknown or missing:
        what = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {missing[0]}"
        raise OptionError(
            f"'{path}': [{name}] has a key {what}: it takes "
            f"{', '.join(sorted(_KEYS | _FLAGS))}"
        )
    return Case(
        name,
        root / said["model"],
        root / said["calibration"],
        root / said["data"],
        root / said["labels"] if "labels" in said else None,
        str(said["eps"]),
        str(said["eps_l2"]) if "eps_l2" in said else None,
        {key: said[key] for key in _FLAGS & said.keys()},
    )


def _selected(cases: tuple[Case, ...], names: str | None) -> tuple[Case, ...]:
    if names is None:
        return cases
    known = {case.name: case for case in cases}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise OptionError(f"--models names '{name}': there are {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def kept(
    folder: Path, key: dict[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The JSON file of `key` in the folder, measured and written where there is none.

    The file's name is a digest of everything that decides its content.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None  # missing or damaged: measured again
    if isinstance(found, dict):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    content = measure()
    atomic.write_bytes(path, json.dumps(content, indent=1).encode())
    return content


def run(script: Callable[[Sequence[str] | None], None]) -> None:
    """Runs the main function of a script, and ends with the tool's own exit codes."""
    try:
        script(None)
    except LipCompileError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
