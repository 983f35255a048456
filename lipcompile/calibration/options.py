"""How calibration data is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lipcompile.calibration.preprocess.transform import Preprocess
from lipcompile.calibration.sources.picking import WHOLE, Shard
from lipcompile.errors import OptionError

_MOST_SAMPLES = 10**9
_MOST_READERS = 256


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to read calibration data.

    Attributes:
        samples: At most so many samples: a random subset where the length is known.
        batch_size: Samples per run; None chooses by size. A fixed batch in the model wins, and
            a batch that does not fit into memory is halved.
        seed: Of the subset, and of random data.
        on_bad_sample: "fail" or "skip" samples that cannot be read.
        on_nonfinite: "fail" or "skip" samples that make a site NaN or infinite.
        preprocess: How images become tensors: a `Preprocess`, a Hugging Face or timm config
            (path or dict), or None for what the model's input tells.
        image_flags: Keyword arguments of `preprocess.resolve.resolve`, over the config.
        shard: Which part of the samples to read, as `Shard` or "I/N"; tables of all parts
            merge to that of the whole.
        readers: Threads that read and decode while the model runs; 0 reads between runs. None
            takes one per core, up to 8, and none where a sample takes less than a millisecond.
        resume: Go on where a killed scan for the same result stood.
        runner: Where the model runs: in this process ("local"), or on the workers of a Ray
            cluster ("ray").
        ray_address: Of the cluster, as `ray.init` takes it; None starts one on this machine
            for as long as the scan takes.
        bounds: Whether what is said of images serves bounds as well, so that it has a meaning
            with arrays too; `harden` sets it.
    """

    samples: int | None = None
    batch_size: int | None = None
    seed: int = 0
    on_bad_sample: Literal["fail", "skip"] = "fail"
    on_nonfinite: Literal["fail", "skip"] = "fail"
    preprocess: Preprocess | str | Path | Mapping[str, Any] | None = None
    image_flags: Mapping[str, Any] = field(default_factory=dict)
    shard: Shard | str = WHOLE
    readers: int | None = None
    resume: bool = True
    runner: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    bounds: bool = False

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("batch size", self.batch_size)):
            if value is not None and not 1 <= value <= _MOST_SAMPLES:
                raise OptionError(
                    f"{name} = {value} is out of range: give 1 to {_MOST_SAMPLES:,}"
                )
        policies = {"on_bad_sample": self.on_bad_sample, "on_nonfinite": self.on_nonfinite}
        for name, policy in policies.items():
            if policy not in ("fail", "skip"):
                raise OptionError(f"{name} = '{policy}' is unknown: use fail or skip")
        if self.seed < 0:
            raise OptionError(f"seed = {self.seed} is negative: give 0 or more")
        if self.readers is not None and not 0 <= self.readers <= _MOST_READERS:
            raise OptionError(
                f"readers = {self.readers} is out of range: give 0 to {_MOST_READERS}"
            )
        if self.runner not in ("local", "ray"):
            raise OptionError(f"runner = '{self.runner}' is unknown: use local or ray")
        if self.ray_address is not None and self.runner != "ray":
            raise OptionError("--ray-address is for --runner ray: add that, or leave it out")
        if isinstance(self.shard, str):
            object.__setattr__(self, "shard", Shard.parse(self.shard))

    @property
    def part(self) -> Shard:
        """`shard`, parsed."""
        assert isinstance(self.shard, Shard)
        return self.shard
