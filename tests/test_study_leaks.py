"""Before any number: images of train in test are found, and nothing that is chosen can have seen test."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featstore
import finetune.study
import probe
from probe import metrics
from probe.classifiers import LOGISTIC
from probe.errors import BadInput
from probe.studies.leaks import near_duplicates
from probe.trial import Drawn, Part, Protocol, run

SHARED = Path(__file__).resolve().parents[2] / "shared"
NET = probe.Network("digits_net", "featstore:digits_net")


@dataclass(frozen=True)
class Pixels:
    """Images in memory, as `featstore.Samples`."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        image: np.ndarray = self.images[i]
        return image

    def describe(self, i: int) -> str:
        return f"row {i}"

    def stat(self, i: int) -> None:
        return None


def images_of(split: featstore.Split) -> np.ndarray:
    return np.stack([np.asarray(split.image(i)) for i in range(len(split))])


def split(name: str, images: np.ndarray, labels: np.ndarray, first: int = 0) -> featstore.Split:
    ids = np.array([f"{name}{i + first}" for i in range(len(images))])
    return featstore.Split(name, ids, labels, tuple("0123456789"), Pixels(images))


def leaky() -> tuple[featstore.Split, featstore.Split, featstore.Split]:
    """Train, val and test of digits; 3 images of test are those of train, 2 more are almost (one grey level off)."""
    parts = [featstore.load_split(f"digits:{part}") for part in ("train", "val", "test")]
    images = [images_of(part).copy() for part in parts]
    images[2][:3] = images[0][10:13]
    images[2][3:5] = np.where(images[0][20:22] > 100, images[0][20:22] - 1, images[0][20:22])
    made = zip(("a", "b", "c"), images, parts, strict=True)
    train, val, test = (split(name, pixels, np.asarray(part.labels)) for name, pixels, part in made)
    return train, val, test


def test_the_same_image_and_its_near_duplicates_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val, test = leaky()
    asked = probe.Study(
        (NET,), (probe.Dataset("leaky", train, test, val),), (probe.Regime("logistic", options={"C": [0.1]}),)
    )
    (record,) = probe.run_study(asked, tmp_path).records
    assert record.leaks["identical"] == {"test in train": 3, "test in val": 0, "val in train": 0}
    listed = {
        (p["id"], p["other_id"]) for p in record.leaks["pairs"] if p["split"] == "test" and p["other_split"] == "train"
    }
    assert {("c0", "a10"), ("c1", "a11"), ("c2", "a12"), ("c3", "a20"), ("c4", "a21")} <= listed
    assert record.leaks["near"]["test in train"] == len(listed) < 46
    said = capsys.readouterr().err
    assert "warning: 3 images of test in train by content" in said
    table = probe.load_study(tmp_path).table()
    assert table["identical"].tolist() == [3]
    assert table["near"].iloc[0] >= 5


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real images are not beside the checkout")
def test_reencoded_photographs_are_found_and_other_photographs_are_not(tmp_path: Path) -> None:
    """Half of the test images are JPEG copies of train: the list has all of these, and of the others next to none."""
    whole = featstore.load_split(f"npz:{SHARED}/data/cifar10_lossless4000/train4000.npz")
    pixels = np.stack([np.asarray(whole.image(i).convert("RGB")) for i in range(600)])
    labels = np.asarray(whole.labels)[:600]
    copies = []
    for image in pixels[:100]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=75)
        copies.append(np.asarray(Image.open(file)))
    train = split("train", pixels[:400], labels[:400])
    test = split(
        "test", np.concatenate([np.stack(copies), pixels[400:500]]), np.concatenate([labels[:100], labels[400:500]])
    )
    net = featstore.load_backbone("torchvision:squeezenet1_1", weights=SHARED / "weights" / "squeezenet1_1.safetensors")
    # small images keep the test short; what is seen at 64 pixels suffices to know a copy
    net = replace(net, preprocessing=replace(net.preprocessing, input_size=(64, 64), resize=(64, 64), crop=None))
    store = featstore.extract(net, [train, test], tmp_path, units="penultimate", dtype="float32", progress=False)
    X, Z = (store.features("penultimate", one).numpy() for one in (train, test))
    found = near_duplicates(Z, X, X)
    right = {i for i, j, _ in found if i == j}
    assert len(right) >= 60  # saving 32 × 32 pixels as JPEG changes them a lot
    assert sum(i >= 100 for i, _, _ in found) <= 3


def test_near_duplicates_are_those_of_a_plain_search() -> None:
    """Blocks and nearest neighbours against all pairs in float64."""
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(300, 20)) + 3, rng.normal(size=(1500, 20)) + 3
    Z[[5, 1100, 1499]] = X[[7, 8, 9]] + 0.02 * rng.normal(size=(3, 20))
    A, B = Z - X.mean(0), X - X.mean(0)
    cosines = (A / np.linalg.norm(A, axis=1, keepdims=True)) @ (B / np.linalg.norm(B, axis=1, keepdims=True)).T
    found = near_duplicates(Z, X, X, closeness=0.2)
    within = (B / np.linalg.norm(B, axis=1, keepdims=True)) @ (B / np.linalg.norm(B, axis=1, keepdims=True)).T
    np.fill_diagonal(within, -1)
    least = 1 - 0.2 * np.median(1 - within.max(1))
    expected = [(i, int(cosines[i].argmax())) for i in np.flatnonzero(cosines.max(1) >= least)]
    assert [(i, j) for i, j, _ in found] == expected == [(5, 7), (1100, 8), (1499, 9)]
    assert [c for *_, c in found] == pytest.approx(cosines.max(1)[[5, 1100, 1499]], abs=1e-5)


def test_collapsed_classes_are_not_near_duplicates() -> None:
    """All images of a class at almost one point, as a network that was trained on them brings them: close, but as all are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 30))
    X, Z = (centres[rng.integers(0, 5, n)] + 0.01 * rng.normal(size=(n, 30)) for n in (400, 100))
    assert near_duplicates(Z, X, X) == []
    Z[3] = X[17]
    assert [(i, j) for i, j, _ in near_duplicates(Z, X, X)] == [(3, 17)]


def test_a_class_that_a_split_lacks_is_named() -> None:
    found = probe.find_leaks({"train": np.array([0, 1, 2]), "test": np.array([0, 1])}, classes=("cat", "dog", "emu"))
    assert found.absent == {"test": ["emu"]}
    assert found.sentences == ("warning: test has no image of 1 class (emu), of which the score says nothing",)
    with pytest.raises(BadInput, match="2 contents"):
        probe.find_leaks({"train": np.arange(3)}, {"train": np.zeros((2, 16), np.uint8)})


def test_a_class_that_train_lacks_is_named_whatever_its_number(tmp_path: Path) -> None:
    """Folders number their classes themselves: a class that only test has is known by its name, here and in the report."""
    for part, kinds in (("train", ("light", "mid")), ("test", ("dark", "light", "mid"))):
        for kind, shade in zip(kinds, (30, 150, 220)[-len(kinds) :], strict=True):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(8):
                noise = np.random.default_rng([shade, i, len(part)]).integers(0, 30, (8, 8)) + shade
                Image.fromarray(noise.astype(np.uint8)).save(tmp_path / part / kind / f"{i}.png")
    asked = probe.Study(
        (NET,),
        (probe.Dataset("shades", f"imagefolder:{tmp_path / 'train'}", f"imagefolder:{tmp_path / 'test'}", val=0.25),),
        (probe.Regime("logistic", options={"C": [0.1]}),),
    )
    found = probe.run_study(asked, tmp_path / "out", progress=False)
    (record,) = found.records
    assert record.leaks["absent"]["train"] == ["dark"]
    page = probe.write_report([found], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "train has no image of 1 class (dark), which no probe or head can learn" in page
    assert "that train lacks" not in page


def test_val_and_test_may_not_be_the_same_images(tmp_path: Path) -> None:
    """By name the study is refused, by content the cell: there is no way to choose on test."""
    train, _, test = leaky()
    with pytest.raises(BadInput, match="both 'digits:test'"):
        probe.Dataset("d", "digits:train", "digits:test", "digits:test")
    again = split("other", test.samples.images, np.asarray(test.labels), first=1000)  # type: ignore[attr-defined]
    asked = probe.Study((NET,), (probe.Dataset("d", train, test, again),))
    found = probe.run_study(asked, tmp_path, progress=False)
    assert "val and test of 'd' hold the same 451 images" in found.failed[0].sentence


REGIMES = (
    probe.Regime("logistic", options={"units": "all", "C": [1e-3, 0.1, 10.0]}),
    probe.Regime("svm", options={"C": [1e-3, 0.1, 10.0], "widen": True}),
    probe.Regime("few", "logistic", {"per_class": 5, "C": [1e-3, 0.1, 10.0]}),
    probe.Regime(
        "head",
        finetune.study.tune_head,
        {"recipe": {"epochs": 2, "keep": {"kind": "KeepBest"}}, "grid": {"lr": [1.0, 0.1]}},
    ),
)


@pytest.mark.filterwarnings("ignore::probe.GridWidened")
def test_other_test_labels_change_no_choice(tmp_path: Path) -> None:
    """Every regime with the true labels of test and with shuffled ones: what is chosen, and every score on val, is the same."""
    train, val, test = leaky()
    wrong = replace(test, labels=np.roll(np.asarray(test.labels), 1))
    chosen = []
    for name, one in (("true", test), ("wrong", wrong)):
        asked = probe.Study((NET,), (probe.Dataset("d", train, one, val),), REGIMES)
        found = probe.run_study(asked, tmp_path / name, progress=False, near=False)
        assert not found.failed
        chosen.append([(r.names, r.val_score, dict(r.chosen), [dict(h) for h in r.history]) for r in found])
        scores = [r.test_score for r in found]
        assert all(s > 0.5 for s in scores) if name == "true" else all(s < 0.3 for s in scores)
    assert chosen[0] == chosen[1]


class Sealed:
    """Test rows that may not be looked at before every choice is made."""

    def __init__(self, part: Part, is_open: list[bool]) -> None:
        self._part, self._is_open = part, is_open

    def __getattr__(self, name: str) -> Any:
        assert self._is_open[0], f"test.{name} was read before the choice"
        return getattr(self._part, name)


def test_probes_read_test_after_the_choice() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    part = Part(rng.normal(size=(60, 5)) + y[:, None], y, np.arange(60).astype(str))
    is_open, n_choices = [False], [0]

    def counted(y_true: Any, y_pred: Any) -> float:
        n_choices[0] += 1
        is_open[0] = n_choices[0] >= 6  # two problems × three penalties
        return float(np.mean(y_true == y_pred))

    protocol = Protocol((0.1, 1.0, 10.0), metrics.as_metric(counted), True, 1e-6, LOGISTIC, False)
    drawn = [Drawn(np.arange(40), np.arange(40, 60)), Drawn(np.arange(20, 60), np.arange(20))]
    found = run(part, None, Sealed(part, is_open), drawn, protocol)  # type: ignore[arg-type]
    assert len(found) == 2
    assert is_open[0]
