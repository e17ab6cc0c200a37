"""Domain shifts are pure functions of an image and its id, and do what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from featstore import BadInput, UnknownName, load_split
from featstore.datasets.shifts import SHIFTS, blur, invert, make_shift, noise, rotate


def picture(height: int = 12, width: int = 9, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_scipys_gaussian(sigma: float, channels: int) -> None:
    """scipy's filter with mirrored borders, cut off at 4 sigma; kernels wider than the image included."""
    image = picture(channels=channels)
    sigmas = (sigma, sigma, 0)[: image.ndim]
    reach = int(np.ceil(4 * sigma))
    expected = ndimage.gaussian_filter(image.astype(np.float64), sigmas, mode="reflect", radius=reach)
    found = np.asarray(blur(sigma)(Image.fromarray(image), "a"))
    assert np.abs(found - expected).max() <= 0.5 + 1e-6, "rounded to whole grey levels, and no more"


def test_rotate_by_a_quarter_is_exact() -> None:
    image = picture(8, 8)
    assert np.array_equal(np.asarray(rotate(90)(Image.fromarray(image), "a")), np.rot90(image))


def test_rotate_fills_corners_with_black_and_keeps_the_centre() -> None:
    white = Image.new("L", (9, 9), 255)
    found = np.asarray(rotate(45)(white, "a"))
    assert found[0, 0] == 0
    assert found[4, 4] == 255


def test_invert_twice_is_the_image() -> None:
    image = Image.fromarray(picture())
    once = invert()(image, "a")
    assert np.array_equal(np.asarray(once), 255 - np.asarray(image))
    assert np.array_equal(np.asarray(invert()(once, "a")), np.asarray(image))


def test_noise_depends_on_seed_and_id_alone() -> None:
    grey = Image.new("L", (200, 200), 128)
    first = np.asarray(noise(10)(grey, "a")).astype(float)
    assert np.array_equal(first, np.asarray(noise(10)(grey, "a")))
    assert not np.array_equal(first, np.asarray(noise(10)(grey, "b")))
    assert not np.array_equal(first, np.asarray(noise(10, seed=1)(grey, "a")))
    assert abs(first.std() - 10) < 0.3, "40,000 draws of a standard deviation of 10: 0.3 is about 8 standard errors"
    assert abs(first.mean() - 128) < 0.5


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_do_not_touch_their_input_and_keep_its_size(name: str) -> None:
    shift = make_shift(name, "" if name in ("bgr", "invert") else "2")
    image = Image.fromarray(picture())
    before = np.asarray(image).copy()
    found = shift(image, "a")
    assert found.size == image.size
    assert found.mode == image.mode
    assert np.array_equal(np.asarray(image), before)


def test_a_shift_is_part_of_the_identity_of_a_split() -> None:
    plain, weak, strong = (load_split(f"digits:val{s}").digest() for s in ("", "+blur(1.0)", "+blur(1.5)"))
    both, swapped = (load_split(f"digits:val{s}").digest() for s in ("+blur(1)+invert()", "+invert()+blur(1)"))
    assert len({d.content_digest for d in (plain, weak, strong, both, swapped)}) == 5
    assert load_split("digits:val+blur(1)").digest().content_digest == weak.content_digest
    assert plain.ids_digest == strong.ids_digest


def test_shifts_by_name() -> None:
    split = load_split("digits:val+blur(1.0)+rotate(30)")
    assert split.name == "digits:val+blur(1.0)+rotate(30)"
    assert [t.name for t in split.transforms] == ["blur", "rotate"]
    plain = load_split("digits:val")
    by_hand = rotate(30)(blur(1.0)(plain.image(3), str(plain.ids[3])), str(plain.ids[3]))
    assert np.array_equal(np.asarray(split.image(3)), np.asarray(by_hand))


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UnknownName) as error:
        make_shift("blurr", "1")
    assert error.value.nearest[0] == "blur"
    for name, arguments in (
        ("blur", "one"),
        ("blur", "1,2,3"),
        ("rotate", ""),
        ("blur", "-1"),
        ("noise", "0"),
        ("invert", "1"),
    ):
        with pytest.raises(BadInput):
            make_shift(name, arguments)
