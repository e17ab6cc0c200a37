"""Domain shifts are pure functions of an image and its id, and do what their names say."""

from __future__ import annotations

import colorsys
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from featstore import BadInput, UnknownName, UnreadableImage, load_split
from featstore.datasets.shifts import (
    SHIFTS,
    DomainShift,
    affine,
    bgr,
    blend,
    blur,
    fixed_affine,
    grey,
    hsv,
    invert,
    kaleido,
    kernel_blur,
    make_shift,
    noise,
    occlude,
    rotate,
    stretch,
    turn,
    yuv,
)


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


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of three photographs, one of them deeper."""
    (tmp_path / "more").mkdir()
    for i, name in enumerate(("b.png", "a.png", "more/c.png")):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


ARGUMENTS = {"blur": "2", "rotate": "20", "blend": "PHOTOGRAPHS,1"}
GREY = {"grey"}
COLOURED = {"bgr", "yuv", "hsv"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_are_pure(name: str, channels: int, photographs: Path) -> None:
    """They do not touch their input, keep its size, depend on image and id alone, and not on what came before."""
    arguments = ARGUMENTS.get(name, "").replace("PHOTOGRAPHS", str(photographs))
    shift = make_shift(name, arguments)
    image = Image.fromarray(picture(channels=channels))
    before = np.asarray(image).copy()
    found = np.asarray(shift(image, "a"))
    shift(image, "b")
    assert found.shape[:2] == before.shape[:2]
    assert (found.ndim == 3) == ((channels == 3 or name in COLOURED) and name not in GREY)
    assert np.array_equal(np.asarray(image), before)
    assert np.array_equal(np.asarray(shift(image, "a")), found)
    assert np.array_equal(np.asarray(make_shift(name, arguments)(image, "a")), found)


RANDOM = {"noise": {}, "occlude": {}, "affine": {}, "blend": {"folder": "PHOTOGRAPHS"}}


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_random_depends_on_seed_and_id(name: str, photographs: Path) -> None:
    options = {k: str(photographs) for k in RANDOM[name]}
    image = Image.fromarray(picture(28, 28, 1))
    found = {
        (seed, i): SHIFTS[name](**options, seed=seed)(image, i).tobytes()
        for seed in (0, 1, 1_234_567, 1_234_568)
        for i in "ab"
    }
    assert len(set(found.values())) == 8


def test_kernel_blur_is_the_kernel_of_the_authors() -> None:
    """Against scipy: bins of the normal distribution, root of their outer product, correlation with black borders, of
    an even kernel one more pixel to the right and below."""
    for length, n_sigma in ((8, 1.0), (4, 0.5), (5, 0.5)):
        interval = (2 * n_sigma + 1) / length
        edges = np.linspace(-n_sigma - interval / 2, n_sigma + interval / 2, length + 1)
        bins = np.diff(stats.norm.cdf(edges))
        kernel = np.sqrt(np.outer(bins, bins))
        kernel /= kernel.sum()
        image = picture(12, 9, 3)
        # scipy's middle of n weights is n // 2; TensorFlow's is (n - 1) // 2
        origin = -1 if length % 2 == 0 else 0
        expected = np.stack(
            [ndimage.correlate(image[:, :, c].astype(float), kernel, mode="constant", origin=origin) for c in range(3)],
            axis=2,
        )
        found = np.asarray(kernel_blur(length, n_sigma)(Image.fromarray(image), "a"))
        assert np.abs(found - expected).max() <= 0.5 + 1e-6, "rounded to whole grey levels, and no more"
    point = np.zeros((9, 9), np.uint8)
    point[4, 4] = 255
    spread = np.asarray(kernel_blur(4, 0.5)(Image.fromarray(point), "a"))
    rows = np.flatnonzero(spread.sum(axis=1))
    assert rows.tolist() == [2, 3, 4, 5], "3 + 4 pixels of padding: a place sees one pixel before it and two behind"


def test_occlusion_hides_one_square() -> None:
    """Half the side, at places that are spread over the whole image."""
    white = Image.new("L", (28, 28), 255)
    corners = []
    for i in range(200):
        hidden = np.asarray(occlude()(white, f"{i}")) == 0
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden.sum() == 14 * 14
        assert (len(rows), len(columns)) == (14, 14)
        corners.append((rows[0], columns[0]))
    assert {int(y) for y, _ in corners} == {int(x) for _, x in corners} == set(range(15))


def test_colours_against_other_libraries() -> None:
    """HSV against colorsys, YUV against the matrix written out: within rounding to whole levels."""
    image = picture(8, 8, 3)
    image[0, :3] = [[0, 0, 0], [255, 255, 255], [77, 77, 77]]
    found = np.asarray(hsv()(Image.fromarray(image), "a")).astype(float)
    expected = np.array([[np.array(colorsys.rgb_to_hsv(*(p / 255))) * 255 for p in row] for row in image.astype(float)])
    assert np.abs(found - expected).max() <= 0.5 + 1e-6
    y, u, v = np.moveaxis(np.asarray(yuv()(Image.fromarray(image), "a")).astype(float), 2, 0)
    r, g, b = np.moveaxis(image.astype(float), 2, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    assert np.abs(y - luma).max() <= 0.5 + 1e-6
    for found_plane, colour, weight in ((u, b, 0.114), (v, r, 0.299)):  # U and V are scaled differences to luma
        assert np.abs(found_plane - ((colour - luma) / (1 - weight) + 255) / 2).max() <= 0.5 + 1e-4
    assert (u[0, :3] == 128).all(), "grey has no colour"
    assert np.array_equal(np.asarray(grey()(Image.fromarray(image), "a")), np.rint(image.mean(axis=2)))
    assert np.array_equal(np.asarray(bgr()(Image.fromarray(image), "a")), image[:, :, ::-1])


def test_affine_draws_what_the_paper_says() -> None:
    """The image shrinks, by up to 2.5 in each direction, and stays inside: of a white square nearly all is kept."""
    white = Image.new("L", (28, 28), 255)
    shares = np.array([np.asarray(affine(0)(white, f"{i}")).astype(bool).mean() for i in range(500)])
    assert shares.min() > 1 / 2.5**2 * 0.9
    # E[1/s]² for s uniform in 1 … 2.5, when nothing is cut off; the border pixels of nearest neighbour blur it
    assert abs(shares.mean() - (np.log(2.5) / 1.5) ** 2) < 0.03
    frames = [np.argwhere(np.asarray(affine(0)(white, f"{i}"))) for i in range(50)]
    centres = np.array([(f.min(axis=0) + f.max(axis=0)) / 2 for f in frames])
    assert np.abs(centres - 13.5).max() <= 1.5, "it is moved by less than a pixel, not by a share of the image"
    turned = np.array([np.asarray(affine(1.5, 1)(white, f"{i}")).astype(bool).mean() for i in range(100)])
    assert turned.min() < 0.9, "without shrinking, a turned square loses its corners"
    still = picture(28, 28, 1)
    assert np.array_equal(np.asarray(affine(0, 1)(Image.fromarray(still), "a")), still)


def test_the_fixed_affine_map_is_one_for_all() -> None:
    image = Image.fromarray(picture(28, 28, 1))
    assert fixed_affine()(image, "a").tobytes() == fixed_affine()(image, "b").tobytes()
    assert fixed_affine()(image, "a").tobytes() != fixed_affine(seed=1)(image, "a").tobytes()
    assert affine()(image, "a").tobytes() != affine()(image, "b").tobytes()


@pytest.mark.parametrize(("shift", "mode"), [(kaleido, "symmetric"), (stretch, "edge")])
def test_shrinking_into_a_border(shift: Callable[[float], DomainShift], mode: str) -> None:
    """By 2: what is in the middle is the image at half its size, what is around it is what numpy pads with."""
    image = Image.fromarray(picture(4, 6, 3)).resize((96, 64), Image.Resampling.BICUBIC)
    found = np.asarray(shift(2)(image, "a")).astype(int)
    half = np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found[18:46, 26:70] - half[2:-2, 2:-2]).max() <= 1
    padded = np.pad(half, ((16, 16), (24, 24), (0, 0)), mode=mode)  # type: ignore[call-overload]
    assert np.abs(found - padded).mean() < 2.5
    assert np.array_equal(np.asarray(shift(1)(image, "a")), np.asarray(image))
    default = {"symmetric": 1.8, "edge": 2.0}[mode]
    assert shift().params == {"scale": default}  # type: ignore[call-arg]


def test_turning_has_no_black_corners() -> None:
    white = Image.new("RGB", (64, 48), (255, 255, 255))
    assert np.asarray(turn()(white, "a")).min() == 255
    assert np.asarray(rotate(34.4)(white, "a")).min() == 0
    image = Image.fromarray(picture(6, 6, 1)).resize((72, 72), Image.Resampling.BICUBIC)
    ahead = np.asarray(turn(0)(image, "a")).astype(int)
    inner = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)  # 72 / 1.125
    assert np.abs(ahead[8:64, 8:64] - inner[4:60, 4:60]).max() <= 1, "seen from 1.125 times as far"


def test_blending_inverts_the_photograph_under_the_digit(photographs: Path) -> None:
    """|patch - 255| where the digit is, the patch elsewhere; of grey digits the mean over its colours."""
    digit = np.zeros((28, 28), np.uint8)
    digit[5:9, 3:20] = 1  # any ink counts
    found = np.asarray(blend(str(photographs))(Image.fromarray(digit), "x")).astype(float)
    clean = np.asarray(blend(str(photographs))(Image.fromarray(np.zeros_like(digit)), "x")).astype(float)
    assert (
        np.array_equal(np.where(digit, 255 - clean, clean), found)
        or np.abs(np.where(digit, 255 - clean, clean) - found).max() <= 1
    )
    sources = [np.asarray(Image.open(p)).astype(float).mean(axis=2) for p in sorted(photographs.rglob("*.png"))]
    places = [s[y : y + 28, x : x + 28] for s in sources for y in range(3) for x in range(13)]
    assert min(np.abs(p - clean).max() for p in places) <= 0.5, "a patch of one of the photographs"


def test_photographs_are_identified_by_what_they_hold(
    photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    there = tmp_path_factory.mktemp("there") / "copy"
    shutil.copytree(photographs, there)
    here, copy = blend(str(photographs)), blend(str(there))
    assert here.params == copy.params
    assert str(here) == f"blend({photographs},0)"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(photographs / "a.png", elsewhere)
    assert blend(str(elsewhere)).params != here.params
    with pytest.raises(BadInput, match="there are none at"):
        blend(str(photographs / "nowhere"))
    with pytest.raises(BadInput, match="remove it or shrink"):
        here(Image.new("L", (50, 50)), "a")
    split = load_split(f"digits:val+blend({photographs},3)")
    assert split.image(0).size == (8, 8)


def test_one_number_is_one_identity() -> None:
    """noise(30) and noise(30.0) are the same shift."""
    assert noise(30).params == noise(30.0, 0.0).params
    assert all(isinstance(v, float) for v in noise(30).params.values())


def test_subsets_of_a_shifted_split_are_nested_and_stratified() -> None:
    few, more = (load_split(f"digits:train+blur(1.0)#per_class({k},seed=3)") for k in (2, 10))
    assert set(few.ids) < set(more.ids)
    assert np.bincount(few.labels).tolist() == [2] * 10  # type: ignore[arg-type]
    small, large = (load_split(f"digits:all#held({share},seed=3)") for share in (0.01, 0.1))
    assert set(small.ids) < set(large.ids)


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
        ("noise", "nan"),
        ("rotate", "inf"),
        ("kernel_blur", "2.5"),
        ("occlude", "1.5"),
        ("affine", "1,0.5"),
        ("kaleido", "0.5"),
        ("turn", "9"),
        ("blend", ""),
        ("invert", "1"),
    ):
        with pytest.raises(BadInput):
            make_shift(name, arguments)


def test_sixteen_bits_are_scaled_before_they_are_shifted() -> None:
    """PIL's own conversion cuts them off at 255: nearly every pixel of a shifted image would be white."""
    deep = np.random.default_rng(0).integers(0, 1 << 16, (20, 30), dtype=np.uint16)
    shallow = Image.fromarray((deep >> 8).astype(np.uint8))
    for shift in (blur(1.0), invert(), noise(), occlude(), affine(), turn(), yuv()):
        found, expected = shift(Image.fromarray(deep), "a"), shift(shallow, "a")
        assert found.mode == expected.mode
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    with pytest.raises(UnreadableImage, match="floating-point"):
        blur(1.0)(Image.fromarray(deep.astype(np.float32)), "a")


def test_arguments_that_are_no_numbers_are_refused() -> None:
    """NaN for a seed draws something, a word for one makes a shift that fails at the first image."""
    word, nan = "x", float("nan")
    made: tuple[tuple[Callable[..., DomainShift], tuple[object, ...], str], ...] = (
        (SHIFTS["blur"], (word,), "the shift blur cannot be made: sigma is 'x'; give finite numbers"),
        (SHIFTS["noise"], (None,), "std is None"),
        (SHIFTS["noise"], (30, nan), "seed is nan"),
        (SHIFTS["kernel_blur"], ("8",), "length is '8'"),
        (SHIFTS["occlude"], (True,), "share is True"),
        (SHIFTS["blend"], (5,), "blend's folder is 5"),
        (SHIFTS["affine"], (1, 2, "s"), "the shift affine cannot be made: seed is 's'"),
        (SHIFTS["fixed_affine"], (1, "2"), "the shift fixed_affine cannot be made: max_scale is '2'"),
        (SHIFTS["turn"], (word,), "radians is 'x'"),
        (SHIFTS["rotate"], (nan,), "degrees is nan"),
        (SHIFTS["kaleido"], (word,), "the shift kaleido cannot be made: scale is 'x'"),
    )
    for make, arguments, words in made:
        with pytest.raises(BadInput, match=words):
            make(*arguments)
