"""The error tree: one root, and the exit code of each branch.

A message states the fact (names in quotes, got and expected), the cause, and the next step::

    LipCompileError
    |-- GateFailed              1   a gate that the user set did not hold
    |-- InputError              2   something the user handed in
    |   |-- OptionError             a value of a flag or an argument
    |   |-- ModelError              the model file or its external data
    |   |-- SelectionError          which layers were asked for
    |   |-- DataError               calibration data or preprocessing
    |   |-- TableError              a calibration table
    |   `-- OutputError             where the result should go
    |-- SetupError              3   the environment
    |   |-- ProviderError           an execution provider that is not active
    |   `-- MissingExtraError       a package that an extra installs
    |-- RunFailure              4   something broke while it ran
    |   |-- OutOfMemory             a model does not fit, not even with one sample
    |   |-- NonFiniteError          NaN or Inf at a site or an output
    |   |-- CheckFailed             the compiled model failed our own checks
    |   `-- SaveError               writing failed (a full disk, an I/O error)
    `-- Interrupted           130   Ctrl-C; names the partial table that was saved
"""

from __future__ import annotations

from typing import ClassVar


class LipCompileError(Exception):
    """Root of every error that LipCompile raises on purpose."""

    exit_code: ClassVar[int] = 4


class GateFailed(LipCompileError):
    """A gate that the user set did not hold; the work itself went well."""

    exit_code = 1


class InputError(LipCompileError):
    """Something that the user handed in cannot be used."""

    exit_code = 2


class OptionError(InputError):
    """The value of a flag or an argument is not legal."""


class ModelError(InputError):
    """The model, or its external data, cannot be read or is not supported."""


class SelectionError(InputError):
    """The request selects no layer, or a pattern matches nothing."""


class DataError(InputError):
    """Calibration data or preprocessing that cannot be used with this model."""


class TableError(InputError):
    """A calibration table that is damaged, or belongs to another model."""


class OutputError(InputError):
    """The output path is taken, is a folder, is the input, or cannot be written."""


class SetupError(LipCompileError):
    """The environment lacks something that the request needs."""

    exit_code = 3


class ProviderError(SetupError):
    """An execution provider was asked for and is not active."""


class MissingExtraError(SetupError):
    """A package is not installed; the message names the pip line of its extra."""


class RunFailure(LipCompileError):
    """Something broke while it ran: inference, our own checks, or writing."""

    exit_code = 4


class OutOfMemory(RunFailure):
    """A run needs more memory than there is; batches of several samples are halved first."""


class NonFiniteError(RunFailure):
    """NaN or Inf appeared in an activation or an output."""


class CheckFailed(RunFailure):
    """The compiled model did not pass LipCompile's own checks; nothing was written."""


class SaveError(RunFailure):
    """Writing failed; the old file, if there was one, is still whole."""


class Interrupted(LipCompileError):
    """Ctrl-C stopped the scan; the partial table was saved."""

    exit_code = 130
