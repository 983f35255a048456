"""What a preprocessing config says: Hugging Face's preprocessor_config.json or timm's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcompile.calibration.preprocess.config_fields import BY_HAND, Fields
from lipcompile.calibration.preprocess.hugging_face import HUGGING_FACE_KEYS, read_hugging_face
from lipcompile.calibration.preprocess.recipe import Recipe
from lipcompile.calibration.preprocess.timm import TIMM_KEYS, read_timm
from lipcompile.errors import DataError

Config = str | os.PathLike[str] | Mapping[str, Any]

_MAX_BYTES = 1_000_000
_FILES = ("preprocessor_config.json", "config.json")


def read_recipe(config: Config) -> Recipe:
    """Reads a config: a JSON file, the folder that holds one, or its content.

    Raises:
        DataError: The config cannot be read, is of neither format, has a value of the wrong
            type, or asks for a step that LipCompile does not do.
    """
    values = config if isinstance(config, Mapping) else _load(Path(config))
    for inner in ("pretrained_cfg", "default_cfg"):
        if isinstance(values.get(inner), Mapping):
            return read_timm(values[inner])
    if "input_size" in values and TIMM_KEYS & values.keys():
        return read_timm(values)
    if HUGGING_FACE_KEYS & values.keys():
        return read_hugging_face(values)
    raise DataError(
        "the preprocessing config is neither a Hugging Face preprocessor_config.json (no"
        " 'do_resize', 'image_mean', ...) nor a timm config.json (no 'pretrained_cfg' or"
        f" 'input_size'); it has the keys {sorted(map(str, values))[:8]}: {BY_HAND}"
    )


def _load(path: Path) -> Fields:
    if os.path.isdir(path):
        path = next((path / f for f in _FILES if (path / f).is_file()), path / _FILES[0])
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(
                f"preprocessing config '{path}' is above 1 MB, so it is none: check the path"
            )
        values = json.loads(data)
    except OSError as err:
        raise DataError(
            f"preprocessing config '{path}' cannot be read ({err.strerror}): check the path"
        ) from err
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"preprocessing config '{path}' is not valid JSON ({err}): check the file"
        ) from err
    if not isinstance(values, dict):
        raise DataError(
            f"preprocessing config '{path}' holds a JSON {type(values).__name__}, expected an"
            " object with keys: check the file"
        )
    return values
