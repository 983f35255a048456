"""Which views a text names, and what a view is: against NumPy's and Pillow's own."""

from __future__ import annotations

import re

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16")
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from lipcompile.ensembles.views import View, parse_views, zoom_matrix, zoomed_size
from lipcompile.errors import OptionError

# The language

FLIP, RIGHT = View(mirror=True), View(right=1)
SHIFTS = (View(down=-1), View(down=1), View(right=-1), RIGHT)
VIEWS = {
    "flip": (FLIP,),
    "flip+flip": (FLIP,),
    "flip*flip": (FLIP,),
    "shift": SHIFTS,
    "shift+shift:01": SHIFTS,
    "shift:3": (View(down=-3), View(down=3), View(right=-3), View(right=3)),
    "scale": (View(0.9),),
    "scale:1.25+scale:5e-1": (View(1.25), View(0.5)),
    "flip+shift:1": (FLIP, *SHIFTS),
    " Flip + SHIFT : 1\n": (FLIP, *SHIFTS),
    "flip*scale:2": (View(2.0), FLIP, View(2.0, mirror=True)),
}
COUNTS = {
    "flip*shift:1": 10,
    "flip*shift:1*scale:0.9": 20,
    "shift:1*shift:1": 13,  # within two steps: 1 + 4 + 8, where 5 * 5 are joined
    "shift:1*shift:2": 1 + 4 + 4 + 4 + 8,
    "flip+flip*shift:1+shift:1": 10,
    "+".join(f"shift:{k}" for k in range(1, 16)) + "+flip+scale:0.9+scale:1.1": 64,
}
PART = "has a part '{}': write flip, shift:K and scale:S"
PIXELS = "a shift is by whole pixels, 1 or more, got '{}'"
FACTOR = "a factor from 0.25 to 4, and not 1, got '{}': write flip"
MALFORMED = {
    **{text: PART.format("") for text in ("", " ", "+", "flip+", "*flip", "flip**shift")},
    **{text: PART.format(text) for text in ("rotate", "flips", "shift:1:2", "flip-shift")},
    "flip+:2": PART.format(":2"),
    **{f"flip:{n}": ": flip takes no number: write flip, shift" for n in ("", "1")},
    **{f"shift:{k}": PIXELS.format(k) for k in ("", "0", "-1", "1.5", "x", "²", "٣")},
    **{f"shift:{k}": PIXELS.format(k) for k in ("100000", "9" * 5000)},
    **{f"scale:{s}": FACTOR.format(s) for s in ("", "0", "1", "1.0", "0.24", "4.01", "-2")},
    **{f"scale:{s}": FACTOR.format(s) for s in ("nan", "inf", "half")},
    "scale:0.9*scale:0.8": r"joins two scales with \*: write their product as one",
}
TOO_MANY = ["+".join(f"shift:{k}" for k in range(1, 17)), "*".join(["shift"] * 12)]
factors = st.sampled_from(["flip", "shift", "shift:2"])
terms = st.lists(factors, min_size=1, max_size=2).map("*".join)
texts = st.lists(terms, min_size=1, max_size=2).map("+".join)  # two have fewer than 64 views


@pytest.mark.parametrize("text", VIEWS)
def test_text_names_views_after_the_image_itself(text: str) -> None:
    assert parse_views(text) == (View(), *VIEWS[text])


@pytest.mark.parametrize("text", COUNTS)
def test_number_of_views(text: str) -> None:
    assert len(parse_views(text)) == COUNTS[text]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_text(text: str) -> None:
    with pytest.raises(OptionError, match=f"'{re.escape(text)}'.*{MALFORMED[text]}"):
        parse_views(text)


@given(texts, texts)
@settings(deadline=None)
def test_sums_are_unions_in_which_nothing_is_twice(one: str, other: str) -> None:
    views = parse_views(f"{one}+{other}")
    assert views[0] == View() and len(set(views)) == len(views)
    assert set(views) == {*parse_views(one), *parse_views(other)}


# Moved and mirrored

Pair = tuple[int, int]
Shape = tuple[int, ...]
LAYOUTS = [((2, 3, 8, 11), (2, 3)), ((2, 8, 11, 3), (1, 2)), ((2, 8, 11), (1, 2))]
layouts = pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=["NCHW", "NHWC", "grey"])


def noise(shape: Shape, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 255).astype(dtype)


@layouts
@pytest.mark.parametrize("shifts", [(1, 0), (-1, 0), (0, 1), (0, -1), (7, -7)])
def test_shift_crops_what_is_reflected(shape: Shape, axes: Pair, shifts: Pair) -> None:
    x, margins, frame = noise(shape), [(0, 0)] * len(shape), [slice(None)] * len(shape)
    for axis, shift in zip(axes, shifts, strict=True):
        margins[axis], frame[axis] = (7, 7), slice(7 - shift, 7 - shift + shape[axis])
    expected = np.pad(x, margins, mode="reflect")[tuple(frame)]
    np.testing.assert_array_equal(View(1.0, *shifts)(x, axes), expected)
    mirrored = View(1.0, *shifts, mirror=True)(x, axes)
    np.testing.assert_array_equal(mirrored, np.flip(expected, axes[1]))


def test_content_moves_down_and_right() -> None:
    x = np.zeros((8, 11), np.float32)
    x[4, 5] = 1.0
    assert np.argwhere(View(down=2, right=-3)(x, (0, 1))).tolist() == [[6, 2]]


@layouts
def test_view_is_zoomed_then_moved_then_mirrored(shape: Shape, axes: Pair) -> None:
    x = noise(shape, "float64")
    expected = FLIP(View(down=1, right=2)(View(1.3)(x, axes), axes), axes)
    # Sums in another order, of values up to 255.
    np.testing.assert_allclose(View(1.3, 1, 2, True)(x, axes), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("view", [View(), FLIP, RIGHT, View(0.8)], ids=str)
def test_every_view_keeps_shape_and_type(view: View, dtype: str) -> None:
    x = noise((2, 3, 8, 11), dtype)
    seen = view(x, (2, 3))
    assert (seen.shape, seen.dtype, seen.flags.c_contiguous) == (x.shape, x.dtype, True)
    assert np.array_equal(seen, x) == (view == View())


# Zoomed


def zoomed_by_pillow(image: np.ndarray, size: Pair) -> np.ndarray:
    """Interpolated at pixel centres, then cropped to the frame, or reflected into it."""
    (height, width), (tall, wide) = image.shape, size
    steps = (width / wide, 0, 0, 0, height / tall, 0)
    how = Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR
    resized = np.asarray(Image.fromarray(image).transform((wide, tall), *how))
    if tall > height:
        top, left = (tall - height) // 2, (wide - width) // 2
        return resized[top : top + height, left : left + width]
    rows, columns = (height - tall) // 2, (width - wide) // 2
    return np.pad(resized, [(rows, rows), (columns, columns)], mode="reflect")


# Shape of an image and zoom -> the size before crop or reflection
ZOOMED = {
    ((12, 17), 1.25): (16, 21),
    ((8, 11), 2.0): (16, 23),
    ((8, 8), 4.0): (32, 32),
    ((16, 24), 0.9): (14, 22),
    ((9, 13), 0.75): (7, 9),
    ((10, 9), 0.5): (6, 5),
}


@pytest.mark.parametrize(("shape", "zoom"), ZOOMED)
def test_zoom_is_that_of_pillow(shape: Pair, zoom: float) -> None:
    x, size = noise(shape), ZOOMED[shape, zoom]
    assert (zoomed_size(shape[0], zoom), zoomed_size(shape[1], zoom)) == size
    # Pillow sums in float32, and gives values up to 255.
    expected = zoomed_by_pillow(x, size)
    np.testing.assert_allclose(View(zoom)(x, (0, 1)), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("shape", "zoom"), ZOOMED)
def test_zoom_keeps_grey_and_commutes_with_the_mirror(shape: Shape, zoom: float) -> None:
    grey, x = np.full(shape, 0.5, np.float32), noise(shape, "float64")
    np.testing.assert_array_equal(View(zoom)(grey, (0, 1)), grey)
    mirrored = View(zoom, mirror=True)(x, (0, 1))
    zoomed = View(zoom)(np.flip(x, 1), (0, 1))
    np.testing.assert_allclose(zoomed, mirrored, rtol=0, atol=1e-10)


@given(st.integers(2, 64), st.floats(0.25, 4))
@settings(deadline=None)
def test_zoom_is_a_mean_of_pixels_about_the_centre(side: int, zoom: float) -> None:
    try:
        matrix = zoom_matrix(side, zoom)
    except OptionError:
        assume(False)
    assert matrix.shape == (side, side)
    assert matrix.min() >= 0
    # float64, with positions up to 64.
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, rtol=0, atol=1e-12)
    assert not np.allclose(matrix, np.eye(side))


@pytest.mark.parametrize("text", TOO_MANY)
def test_too_many_views(text: str) -> None:
    """The second would have 5^12 before duplicates go."""
    match = r"^ensemble 'shift.*' has \d+ views or more, .*: at most 64 are built$"
    with pytest.raises(OptionError, match=match):
        parse_views(text)


# Images that are too small: view, height and width -> why there is none

TOO_SMALL = {
    (View(down=-8), 8, 99): "shift by 8 .* 8 pixels high: .* reaches 7 at most",
    (View(right=12), 99, 11): "shift by 12 .* 11 pixels wide: .* reaches 10 at most",
    (View(0.9), 99, 8): r"^scale:0\.9 moves the border of 8 pixels by no more than half",
    (View(0.25), 12, 12): r"^scale:0\.25 leaves 4 of 12 pixels, too few .*nearer to 1$",
    (View(0.25), 2, 2): "leaves 0 of 2 pixels, too few to fill the frame",
}


@pytest.mark.parametrize(("view", "height", "width"), TOO_SMALL)
def test_view_does_not_exist_for_small_images(view: View, height: int, width: int) -> None:
    match = TOO_SMALL[view, height, width]
    with pytest.raises(OptionError, match=match):
        view.check(height, width)
    with pytest.raises(OptionError, match=match):
        view(np.zeros((height, width), np.float32), (0, 1))
    view.check(None, None)


@pytest.mark.parametrize("view", [View(down=7, right=-10), View(0.5), View(4.0)])
def test_largest_view_of_small_images(view: View) -> None:
    view.check(8, 11)
