"""Gaussian noise by counter: draw t of an image is a function of (seed, image, stream, t).

Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a key
of 128 bits and a counter of 256 bits to random bits. Here

    key      = first 128 bits of SHA-256(layout, seed, shape and pixels of the image)
    counter  = (position, 0, block, stream), four words of 64 bits, `position` the lowest

so each block of 16 draws has 2^128 counter values for itself. A block uses a few million of
them at most, so blocks and streams of one image never share one. Different images or seeds
have different keys, which are different permutations of the counters; two of them coincide by
an accident of SHA-256 alone, with probability 2^-128 for a pair.

Batches, their order and their size, interruptions and other images do not matter: nothing is
drawn from a state that something else has advanced.

Limits. Values are float32 of NumPy's ziggurat (24 random bits): |x| <= 3.654 + 0.2737 * 24 *
ln 2 = 8.21, where a true normal is larger with probability 2.3e-16, and there are about 2^31
different values. The guarantees of smoothing are stated for true normals; as everywhere,
pseudo-random ones stand for them. The ziggurat belongs to NumPy, which may change a
distribution's stream with a release; the release is part of a journal's key for that reason.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np

BLOCK = 16  # draws per counter block; part of the definition of a draw
_LAYOUT = f"lipcompile.noise/1 philox4x64 float32 ziggurat block {BLOCK}"


class Stream(IntEnum):
    """What draws are for: those that select a class must not count for it as well."""

    SELECT = 0
    COUNT = 1


class ImageNoise:
    """The draws of one image.

    Args:
        pixels: float32 [C, H, W] before normalisation; only names the image.
        seed: At least 0.
        shape: Of one draw: that of the model's input without its batch axis.
    """

    def __init__(self, pixels: np.ndarray, seed: int, shape: tuple[int, ...]) -> None:
        digest = hashlib.sha256(f"{_LAYOUT} {seed} {pixels.shape}".encode())
        digest.update(np.ascontiguousarray(pixels, "<f4").data)
        self._key = np.frombuffer(digest.digest()[:16], "<u8").astype(np.uint64)
        self._shape = shape

    def draws(self, stream: Stream, start: int, stop: int) -> np.ndarray:
        """Standard normals: float32 [stop - start, *shape], draws `start` to `stop` - 1."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        drawn = np.empty(((last - first) * BLOCK, *self._shape), np.float32)
        for index in range(first, last):
            at = (index - first) * BLOCK
            generator = np.random.Generator(self._bits(stream, index))
            generator.standard_normal(dtype=np.float32, out=drawn[at : at + BLOCK])
        return drawn[start - first * BLOCK : stop - first * BLOCK]

    def _bits(self, stream: Stream, block: int) -> np.random.Philox:
        counter = np.array([0, 0, block, stream], np.uint64)
        return np.random.Philox(key=self._key, counter=counter)
