"""mAP@k against enumeration: every neighbour found by sorting, every average precision by its definition."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featstore
import finetune
from finetune import retrieval
from finetune.cli import main
from finetune.retrieval import average_precisions, mean_average_precision, retrieve
from finetune.task import preprocessing_of


def enumerated(
    queries: np.ndarray, asked: np.ndarray, gallery: np.ndarray, there: np.ndarray, k: int, distance: str, z: str
) -> tuple[list[list[int]], list[float]]:
    """Neighbours and average precisions by loops over all pairs."""
    neighbours, precisions = [], []
    for query, label in zip(queries, asked, strict=True):
        far = []
        for row, item in enumerate(gallery):
            if distance == "cosine":
                far.append((1 - query @ item / np.sqrt((query @ query) * (item @ item)), row))
            else:
                far.append((float(((query - item) ** 2).sum()), row))
        nearest = [row for _, row in sorted(far)[:k]]
        n_right, total = 0, 0.0
        for rank, row in enumerate(nearest, 1):
            if there[row] == label:
                n_right += 1
                total += n_right / rank
        possible = min(k, sum(1 for other in there if other == label))
        precisions.append(total / {"possible": possible, "found": max(n_right, 1), "k": k}[z])
        neighbours.append(nearest)
    return neighbours, precisions


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_of_equally_near_ones_the_earlier_comes_first(distance: Any) -> None:
    """On a grid of small whole numbers most distances occur several times, of vectors that differ.

    The order is that of exact fractions: rounding, of the mean or of a length, must not decide between them.
    """
    random = np.random.Generator(np.random.PCG64(0))
    every = np.array([(a, b, c) for a in range(-2, 3) for b in range(-2, 3) for c in range(-2, 3) if a or b or c])
    gallery, queries = random.permutation(every), random.permutation(every)[:40]
    found = mean_average_precision(
        queries, np.zeros(40, int), gallery, np.zeros(len(gallery), int), k=len(gallery), distance=distance
    )  # fmt: skip
    for query, nearest in zip(queries.tolist(), found.nearest.tolist(), strict=True):
        keys = []
        for row, item in enumerate(gallery.tolist()):
            product = sum(a * b for a, b in zip(query, item, strict=True))
            closeness = Fraction(product * abs(product), sum(b * b for b in item))  # cosine, squared with its sign
            far = Fraction(sum((a - b) ** 2 for a, b in zip(query, item, strict=True)))
            keys.append((far if distance == "euclidean" else -closeness, row))
        assert nearest == [row for _, row in sorted(keys)]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("normaliser", ["possible", "found", "k"])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_it_is_what_enumeration_gives(distance: Any, normaliser: Any, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours in order and AP@k of every query, over blocks of queries, far from the origin."""
    random = np.random.Generator(np.random.PCG64(k))
    queries, gallery = random.normal(3, 1, (23, 7)), random.normal(3, 1, (60, 7))
    asked, there = random.integers(0, 4, 23), random.integers(0, 4, 60)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", 8 * 60 * 5)  # five queries at once
    found = mean_average_precision(queries, asked, gallery, there, k=k, distance=distance, normaliser=normaliser)
    neighbours, precisions = enumerated(queries, asked, gallery, there, k, distance, normaliser)
    assert found.nearest.tolist() == neighbours
    np.testing.assert_allclose(found.average_precisions, precisions, rtol=1e-12)
    assert found.score == pytest.approx(np.mean(precisions), rel=1e-12)
    assert (found.is_right == (there[found.nearest] == asked[:, None])).all()


def test_scikit_learn_agrees_on_a_whole_ranking() -> None:
    """With k the whole gallery, AP@k is the average precision of information retrieval, scikit-learn's."""
    from sklearn.metrics import average_precision_score

    random = np.random.Generator(np.random.PCG64(0))
    queries, gallery, there = random.normal(size=(9, 5)), random.normal(size=(40, 5)), random.integers(0, 3, 40)
    asked = random.integers(0, 3, 9)
    found = mean_average_precision(queries, asked, gallery, there, k=40, distance="euclidean")
    for i in range(9):
        near = -np.linalg.norm(gallery - queries[i], axis=1)
        expected = average_precision_score(there == asked[i], near)
        assert found.average_precisions[i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_of_equally_near_ones_the_earlier_row_comes_first(distance: Any) -> None:
    """Every vector five times over, one of them asked for: the order does not depend on how a product is summed."""
    random = np.random.Generator(np.random.PCG64(1))
    gallery = np.concatenate([random.normal(size=(6, 33))] * 5)
    queries = np.concatenate([random.normal(size=(7, 33)), gallery[:1]])
    there = np.arange(30)
    found = mean_average_precision(queries, there[:8], gallery, there, k=7, distance=distance)
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) if distance == "cosine" else 1 for x in (queries, gallery)]
    near = np.linalg.norm((queries / lengths[0])[:, None] - gallery / lengths[1], axis=2).round(9)
    assert found.nearest.tolist() == np.argsort(near, axis=1, kind="stable")[:, :7].tolist()


def test_float32_and_half_features_are_compared_in_double_precision() -> None:
    """Two items that differ in the last bit of float32, a million from the origin, are told apart."""
    gallery = torch.full((3, 2), 1e6, dtype=torch.float32)
    gallery[1, 0] += 0.125
    gallery[2, 0] += 0.25
    query = gallery[1:2]
    found = mean_average_precision(query, ["b"], gallery, ["a", "b", "c"], k=1, distance="euclidean")
    assert found.nearest.tolist() == [[1]]


def test_the_definition_of_average_precision() -> None:
    """Right, wrong, right of three possible: (1 + 2/3) / 3; nothing right is 0 under each normaliser."""
    right = np.array([[True, False, True], [False, False, False]])
    possible = np.array([3, 5])
    assert average_precisions(right, possible).tolist() == pytest.approx([5 / 9, 0])
    assert average_precisions(right, possible, "found").tolist() == pytest.approx([5 / 6, 0])
    assert average_precisions(right, np.array([2, 5]), "possible").tolist() == pytest.approx([5 / 6, 0])


def test_what_cannot_be_compared_is_said() -> None:
    """Everything wrong with one call in one error."""
    x = np.ones((4, 2))
    with pytest.raises(finetune.BadInput, match=r"(?s)k is 9.*nothing of class 7.*distance is 'manhattan'"):
        mean_average_precision(x, [0, 0, 7, 7], x, [0, 0, 1, 1], k=9, distance="manhattan")  # type: ignore[arg-type]
    with pytest.raises(finetune.BadInput, match="1 vectors are zero"):
        mean_average_precision(x, [0] * 4, np.array([[0.0, 0], [1, 1]]), [0, 0], k=1)
    with pytest.raises(finetune.BadInput, match="NaN"):
        mean_average_precision(x * np.nan, [0] * 4, x, [0] * 4, k=1)
    with pytest.raises(finetune.BadInput, match="2 features and the gallery has 3"):
        mean_average_precision(x, [0] * 4, np.ones((4, 3)), [0] * 4, k=1)
    with pytest.raises(finetune.BadInput, match=r"shape \(4, 2\) and labels \(3,\)"):
        mean_average_precision(x, [0] * 3, x, [0] * 4, k=1)


def test_tuned_features_are_asked_in_the_source_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inverted digits find plain ones of their class again once an adapter inverts them; unadapted they do not.

    The features are those of `Backbone.chain`, so that an error in what is taken would show.
    """
    backbone = featstore.load_backbone("featstore:digits_net")
    plain = featstore.load_split("digits:val")
    train, val = featstore.load_split("digits:train+invert()").holdout(0.3)
    queries = featstore.load_split("digits:test+invert()")
    recipe = finetune.Recipe(
        lr=0.05,
        epochs=20,
        batch_size=32,
        optimizer=finetune.Adam(),
        schedule=finetune.Constant(),
        keep=finetune.KeepBest(),
    )
    run = finetune.tune_adapter(
        backbone,
        train,
        val,
        adapter=finetune.Colour(),
        head_rows=range(10),
        recipe=recipe,
        out=tmp_path,
        progress=False,
    )
    before, after = (retrieve(backbone, plain, queries, run=r) for r in (None, run))
    with torch.inference_mode():
        features = [
            backbone.chain.run(
                torch.stack([backbone.preprocessing(split.image(i)) for i in range(len(split))]), last="penultimate"
            ).flatten(1)
            for split in (queries, plain)
        ]
    labels = [split.labels for split in (queries, plain)]
    by_hand = mean_average_precision(features[0], labels[0], features[1], labels[1])  # type: ignore[arg-type]
    assert before.score == pytest.approx(by_hand.score, abs=1e-3)  # batches of other sizes round otherwise
    assert before.score < 0.4
    assert after.score > 0.8
    words = ["retrieve", "featstore:digits_net", "--gallery", "digits:val", "--queries", "digits:test+invert()"]
    assert main([*words, "--run", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(after.score, abs=1e-9)
    assert main([*words, "--k", "3", "--distance", "euclidean"]) == 0
    assert capsys.readouterr().out.startswith("mAP@3 0.")
    assert main([*words, "--k", "3000"]) == 1
    assert "k is 3000 and the gallery has" in capsys.readouterr().err


def test_queries_are_looked_at_as_the_runs_test_images(tmp_path: Path) -> None:
    """A run that saw the inner 87.5 % of its images; the gallery is seen as the source network sees it."""
    backbone = featstore.load_backbone("featstore:digits_net")
    plain, queries = featstore.load_split("digits:val"), featstore.load_split("digits:test")
    recipe = finetune.Recipe(lr=1e-3, steps=2, batch_size=8, view="crop")
    run = finetune.tune_unit(backbone, plain, unit="conv2", recipe=recipe, out=tmp_path, progress=False)
    assert run.view == "crop"
    network = run.network(backbone).eval()
    features: list[torch.Tensor] = []
    network.get_submodule("head").register_forward_pre_hook(lambda layer, given: features.append(given[0]))
    cropped = preprocessing_of(backbone, "crop")
    with torch.inference_mode():
        network(torch.stack([cropped(queries.image(i)) for i in range(len(queries))]))
        images = torch.stack([backbone.preprocessing(plain.image(i)) for i in range(len(plain))])
        gallery = backbone.chain.run(images, last="penultimate").flatten(1)
    by_hand = mean_average_precision(features[0], queries.labels, gallery, plain.labels)  # type: ignore[arg-type]
    assert retrieve(backbone, plain, queries, run=run).score == pytest.approx(by_hand.score, abs=1e-3)
