"""The largest singular value of a weight whose columns are masked, over that of the whole.

For a weight W and the inputs that a threshold keeps, M = diag(|x| > c):

    ratio = sigma_max(W M) / sigma_max(W) <= 1

which is what arXiv 2406.19622 (appendix C) looks at, per input x. The inequality holds for a
fixed mask (their Lemma 2). It bounds nothing about the map x -> W f_c(x), whose mask moves
with x, and is no certificate.
"""

from __future__ import annotations

import numpy as np

_STEPS = 40
_NUMBERS = 1 << 25  # of the basis, at once, to bound memory
_LOST = 1e-5  # of the first step: what is left of a direction is rounding


def masked_ratios(weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """sigma_max of masked weights over sigma_max of the weight, float64 [N] in [0, 1].

    By the Lanczos method, which approaches each singular value from below: to rounding where W
    has at most 40 rows or columns, else to less than 1e-3 in the tests, also where the largest
    values lie close together.

    Args:
        weight: float [G, O, I]: one matrix per group, which act on features of their own; the
            largest singular value of all of them together is that of the largest.
        kept: bool [G, I, N]: what each of N masks leaves.

    Returns:
        The ratios; 1 where the weight is 0 or not finite, which no mask shrinks.
    """
    largest = float(np.abs(weight).max(initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return np.ones(kept.shape[-1])
    scaled = (np.asarray(weight, np.float64) / largest).astype(np.float32)
    masks = np.concatenate([np.ones((*kept.shape[:2], 1), bool), kept], axis=2)
    groups, rows, features = scaled.shape
    together = max(1, _NUMBERS // (groups * _STEPS * min(rows, features)))
    parts = range(0, masks.shape[2], together)
    found = [_lanczos(scaled, masks[..., n : n + together]).max(axis=0) for n in parts]
    sigma = np.concatenate(found)
    ratios: np.ndarray = np.minimum(sigma[1:] / sigma[0], 1.0)
    return ratios


def _lanczos(weight: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """sigma_max of every group and mask, float64 [G, N], from a few steps on W M W^T, or on
    M W^T W M where that is smaller.

    Each step keeps every vector before it, so that a direction that the start hardly holds is
    found as well: power iteration would rest on the wrong one. All masks share each product:
    on a busy machine the threads of BLAS wait for each other once per product.
    """
    kept = masks.transpose(0, 2, 1).astype(np.float32)
    groups, rows, features = weight.shape
    transposed = np.ascontiguousarray(weight.transpose(0, 2, 1))
    size = min(rows, features)
    steps = min(_STEPS, size)
    start = np.random.default_rng(0).standard_normal((groups, 1, size)).astype(np.float32)
    vector = np.repeat(start, kept.shape[1], axis=1)
    vector = vector if size == rows else vector * kept
    basis = np.zeros((groups, kept.shape[1], steps, size), np.float32)
    small = np.zeros((groups, kept.shape[1], steps, steps))
    scale = np.zeros((groups, kept.shape[1], 1), np.float32)
    for step in range(steps):
        length = np.linalg.norm(vector, axis=2, keepdims=True)
        alive = length > _LOST * scale
        basis[:, :, step] = np.where(alive, vector / np.where(alive, length, 1), 0)
        vector = basis[:, :, step]
        if size == rows:
            vector = ((vector @ weight) * kept) @ transposed
        else:
            vector = ((vector @ transposed) @ weight) * kept
        if step == 0:
            scale = np.linalg.norm(vector, axis=2, keepdims=True)
        known = basis[:, :, : step + 1]
        parts, vector = _divided(known, vector)
        small[:, :, : step + 1, step] = small[:, :, step, : step + 1] = parts
        vector = _divided(known, vector)[1]  # twice is enough, in float32 as well
    values: np.ndarray = np.sqrt(np.linalg.eigvalsh(small)[..., -1].clip(min=0.0))
    return values


def _divided(basis: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of [G, N, D] lies along each row of [G, N, K, D], and the rest."""
    parts = (basis @ vectors[..., None])[..., 0]
    return parts, vectors - (parts[:, :, None] @ basis)[:, :, 0]
