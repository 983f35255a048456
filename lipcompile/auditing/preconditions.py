"""What must hold before, or be said about, an audit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lipcompile.auditing.campaign import Campaign
from lipcompile.errors import DataError, ModelError, OptionError, ProviderError
from lipcompile.model_io import LoadedModel
from lipcompile.records import ABSTAIN, SOURCE, read_record
from lipcompile.statistics import near_chance

_VALUES_PER_BATCH = 1_500_000  # pixel values; more does not fit the caches of a CPU
_MOST = 64
_ON_CUDA = 16  # times as much
_NEAR_ZERO = 0.02  # worst cases below it leave nothing to compare


def open_device(name: str) -> torch.device:
    """torch's device of that name.

    Raises:
        OptionError: There is no such kind of device, or it is not supported.
        ProviderError: It is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device '{name}' is unknown: use cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise OptionError(f"device '{name}' is not supported: use cpu or cuda")
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= there:
        raise ProviderError(
            f"device '{name}' was asked for, and torch {torch.__version__} sees {there} CUDA "
            "devices: install a CUDA build of torch, or pass --device cpu"
        )
    return device


def batch_for(values: int, device: torch.device) -> int:
    """Images per batch, for images of so many values."""
    budget, most = _VALUES_PER_BATCH, _MOST
    if device.type == "cuda":
        budget, most = budget * _ON_CUDA, most * _ON_CUDA
    return max(1, min(most, budget // values))


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Gives torch `count` threads inside the block; 0 leaves it alone."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_pair(original: LoadedModel, hardened: LoadedModel) -> list[str]:
    """The two belong together; what cannot be known becomes a note.

    Raises:
        ModelError: They do not.
    """
    for model in (original, hardened):
        _check_plain_scores(model)
        if len(model.inputs) != 1:
            raise ModelError(
                f"'{model.name}' has {len(model.inputs)} inputs and cannot be audited: "
                "attacks change one image; export it with the others as constants"
            )
    before, after = original.inputs[0], hardened.inputs[0]
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        raise ModelError(
            f"'{hardened.name}' takes {after} and '{original.name}' takes {before}: they do "
            "not belong together, name the original that was hardened with --original"
        )
    source = hardened.metadata.get(SOURCE)
    if source is None:
        return [
            f"'{hardened.name}' has no LipCompile provenance: that it comes from "
            f"'{original.name}' is the caller's word, and no surrogate gradient of its "
            "defence is known, so that an attacker who knows it may do better"
        ]
    if source != original.digest:
        raise ModelError(
            f"'{hardened.name}' was hardened from a model with digest {source[:19]}..., and "
            f"'{original.name}' has {original.digest[:19]}...: they do not belong together, "
            "name the original that was hardened with --original"
        )
    return []


def _check_plain_scores(model: LoadedModel) -> None:
    record = read_record(model.metadata, ABSTAIN)
    if record is not None and record.get("as") == "logit":
        raise ModelError(
            f"'{model.name}' has an abstain logit, a score that is no class, and an audit "
            "compares classes: audit the model without it ('lipcompile strip', which changes "
            "no class), or one made with --abstain-as bool"
        )


def check_labels(campaign: Campaign) -> None:
    """Labels fit the scores; an accuracy no better than chance becomes a note.

    Raises:
        DataError: A label has no score, or the models have different numbers of classes.
    """
    images, victim = campaign.images, campaign.victims["hardened"]
    classes, before = victim.classes, campaign.victims["original"].classes
    if classes != before:
        raise DataError(
            f"'{victim.name}' gives {classes} scores per image and its original {before}: "
            "they do not belong together"
        )
    images.check_labels(classes, victim.name)
    if (note := near_chance(campaign.clean["original"], classes)) is not None:
        campaign.notes.append(note)


def note_floor(campaign: Campaign) -> None:
    """Says so where both worst cases are near zero, which leaves nothing to compare."""
    shares = [campaign.robust(role).mean() for role in campaign.victims]
    if max(shares) <= _NEAR_ZERO:
        campaign.notes.append(
            "both worst cases are near 0 %, so nothing can be compared here: take a smaller "
            "--eps, or a model that was trained to be robust"
        )
