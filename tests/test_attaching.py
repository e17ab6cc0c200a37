"""A probe on its network: one module, ONNX and TorchScript give the logits of the probe on stored features; saved probes are
read with safetensors and json alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_helpers import GREY8, Cells
from safetensors.numpy import load_file
from sklearn.datasets import load_iris

import featstore
import finetune
import probe
from probe.errors import BadInput, DamagedRecord

RTOL, ATOL = 1e-4, 1e-4  # features in float32, coefficients fitted in float64 and used in float32


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[featstore.Backbone, featstore.Store, featstore.Split]:
    backbone = featstore.load_backbone("featstore:digits_net")
    train = featstore.load_split("digits:train+rotate(40)")
    store = featstore.extract(backbone, train, tmp_path_factory.mktemp("f"), dtype="float32", progress=False)
    return backbone, store, train


def pixels(backbone: featstore.Backbone, split: featstore.Split, n: int) -> torch.Tensor:
    """Images as the network takes them."""
    prepared = np.stack([backbone.preprocessing.pixels(split.image(i)) for i in range(n)])
    return backbone.preprocessing.normalize(torch.from_numpy(prepared))


@pytest.mark.parametrize("unit", ["penultimate", "conv2"])
@pytest.mark.parametrize("n_classes", [10, 2])
def test_attached_logits_are_those_of_the_probe(
    fitted: tuple[featstore.Backbone, featstore.Store, featstore.Split], unit: str, n_classes: int
) -> None:
    """The module gets images and the probe gets stored features; another unit, pooling or order of classes would show."""
    backbone, store, train = fitted
    F = store.features(unit, train)
    y = np.asarray(F.labels) % n_classes
    model = probe.fit(F.numpy(), y, C=0.1)
    network = finetune.attach(backbone, model, unit=unit)
    x = pixels(backbone, train, 40)
    with torch.inference_mode():
        logits = network(x).numpy()
    scores = model.decision_function(F.numpy()[:40])
    if n_classes == 2:
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], scores, rtol=RTOL, atol=ATOL)
    else:
        np.testing.assert_allclose(logits, scores, rtol=RTOL, atol=ATOL)
    assert (model.classes[logits.argmax(1)] == model.predict(F.numpy()[:40])).all()
    proba = torch.softmax(torch.from_numpy(logits), 1).numpy()
    np.testing.assert_allclose(proba, model.predict_proba(F.numpy()[:40]), atol=1e-4)
    if unit == "penultimate":
        assert sum(isinstance(m, torch.nn.Linear) for m in network.modules()) == sum(
            isinstance(m, torch.nn.Linear) for m in backbone.module.modules()
        )  # in place of the network's own


def test_a_unit_that_hands_on_two_tensors_has_its_own_read(tmp_path: Path) -> None:
    """A store holds the unit's own output, not that of the cell before it, which goes on beside it."""
    backbone = featstore.load_backbone(Cells().eval(), preprocessing=GREY8)
    train = featstore.load_split("digits:train").per_class(5, seed=0)
    F = featstore.extract(
        backbone, train, tmp_path, units=["cell_1"], pool="mean", dtype="float32", progress=False
    ).features("cell_1", train)
    model = probe.fit(F.numpy(), F.labels, C=0.1)
    with torch.inference_mode():
        logits = finetune.attach(backbone, model, unit="cell_1")(pixels(backbone, train, 40)).numpy()
    np.testing.assert_allclose(logits, model.decision_function(F.numpy()[:40]), rtol=RTOL, atol=ATOL)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:FutureWarning", "ignore:.*torch.jit.load.*:DeprecationWarning")
def test_exported_networks_give_the_same_logits(
    fitted: tuple[featstore.Backbone, featstore.Store, featstore.Split], tmp_path: Path
) -> None:
    """ONNX in onnxruntime and TorchScript loaded anew, with another number of images than they were exported with."""
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    backbone, store, train = fitted
    F = store.features("penultimate", train)
    model = probe.fit(F.numpy(), F.labels, C=0.1)
    network, x = finetune.attach(backbone, model), pixels(backbone, train, 7)
    with torch.inference_mode():
        expected = network(x).numpy()
    path = finetune.export_onnx(network, backbone, tmp_path / "m.onnx", classes=list(model.classes))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n in (1, 7):
        (said,) = session.run(["logits"], {"images": x[:n].numpy()})
        np.testing.assert_allclose(said, expected[:n], rtol=RTOL, atol=ATOL)
    about = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert json.loads(about["classes"]) == list(range(10))
    assert about["weights_digest"] == backbone.weights_digest
    assert featstore.Preprocessing.from_json(json.loads(about["preprocessing"])) == backbone.preprocessing
    script = finetune.export_torchscript(network, backbone, tmp_path / "m.pt")
    with torch.inference_mode():
        np.testing.assert_allclose(torch.jit.load(str(script))(x).numpy(), expected, rtol=RTOL, atol=ATOL)


def test_a_probe_of_another_unit_is_refused(
    fitted: tuple[featstore.Backbone, featstore.Store, featstore.Split],
) -> None:
    backbone, store, train = fitted
    F = store.features("conv2", train)
    model = probe.fit(F.numpy(), F.labels, C=0.1)
    with pytest.raises(finetune.BadInput, match=f"takes {F.shape[1]} features and unit 'penultimate'"):
        finetune.attach(backbone, model)
    with pytest.raises(finetune.BadInput, match="no unit 'conv9'"):
        finetune.attach(backbone, model, unit="conv9")


@pytest.mark.parametrize("names", [None, ("setosa", "versicolor", "virginica")])
@pytest.mark.parametrize("n_classes", [3, 2])
def test_a_saved_probe_is_read_without_this_package(
    tmp_path: Path, names: tuple[str, ...] | None, n_classes: int
) -> None:
    """As the format says, with safetensors and json alone; and by `load_model`, to the bit."""
    X, y = load_iris(return_X_y=True)
    X, y = X[y < n_classes], y[y < n_classes]
    labels = y if names is None else np.array(names)[y]
    model = probe.fit(X, labels, C=2.0)
    probe.save_model(model, tmp_path / "iris", about={"unit": "petals"})
    said, tensors = json.loads((tmp_path / "iris.json").read_text()), load_file(tmp_path / "iris.safetensors")
    scores = X @ tensors["coef"].T + tensors["intercept"]
    chosen = (scores[:, 0] > 0).astype(int) if said["task"] == "binary" else scores.argmax(1)
    assert (np.array(said["classes"])[chosen] == model.predict(X)).all()
    assert said["C"] == 2.0
    assert said["about"] == {"unit": "petals"}
    again = probe.load_model(tmp_path / "iris")
    assert np.array_equal(again.decision_function(X), model.decision_function(X))
    assert (again.predict(X) == model.predict(X)).all()
    assert (again.status, again.gap, again.task, again.loss) == (model.status, model.gap, model.task, model.loss)
    clf = probe.LinearProbe(C=2.0).fit(X, labels)
    probe.save_model(clf, tmp_path / "clf")
    assert (probe.load_model(tmp_path / "clf.json").predict(X) == clf.predict(X)).all()


def test_damaged_probes_are_refused(tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)
    probe.save_model(probe.fit(X, y, C=1.0), tmp_path / "m")
    tensors, words = tmp_path / "m.safetensors", tmp_path / "m.json"
    good, said = tensors.read_bytes(), json.loads(words.read_text())
    tensors.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DamagedRecord, match="not those that were written"):
        probe.load_model(tmp_path / "m")
    tensors.write_bytes(good)
    for change, error, match in (
        ({"format": 99}, BadInput, "format 99"),
        ({"task": "magic"}, DamagedRecord, "does not describe"),
        ({"tensors": "../m.safetensors"}, None, ""),
    ):
        words.write_text(json.dumps({**said, **change}))
        if error is None:
            probe.load_model(tmp_path / "m")  # the name alone counts: nothing outside the folder is read
            continue
        with pytest.raises(error, match=match):
            probe.load_model(tmp_path / "m")
    tensors.rename(tmp_path / "renamed.safetensors")
    with pytest.raises(BadInput, match="cannot be read"):
        probe.load_model(tmp_path / "m")
    words.rename(tmp_path / "renamed.json")
    assert probe.load_model(tmp_path / "renamed").C == 1.0  # both files under another name are the same probe
    with pytest.raises(BadInput, match="There is no saved probe"):
        probe.load_model(tmp_path / "nothing")
    with pytest.raises(BadInput, match="not fitted"):
        probe.save_model(probe.LinearProbe(), tmp_path / "x")


def test_published_optima_come_back_and_say_what_C_means(
    fitted: tuple[featstore.Backbone, featstore.Store, featstore.Split], tmp_path: Path
) -> None:
    _, store, train = fitted
    found = probe.sweep(
        store, train=train, val=0.25, out=tmp_path / "r", C=[0.01, 0.1, 1.0], seeds=2, units=["conv2", "penultimate"],
        progress=False,
    )  # fmt: skip
    written = probe.export_optima(found, tmp_path / "optima.json")
    read = probe.import_optima(tmp_path / "optima.json")
    assert read == written
    assert len(read) == 4
    record = found.records[1]
    which = {"unit": record.unit, "seed": record.seed}
    assert read.C(record.backbone, train.name, **which) == record.C
    assert read.find("nobody", train.name) == ()
    with pytest.raises(BadInput, match=r"No C was published for .*nearest: featstore:digits_net on"):
        read.C(record.backbone, "digits:trian+rotate(40)")
    varied = replace(read, optima=(read.optima[0], replace(read.optima[0], seed=7, C=99.0)))
    with pytest.raises(BadInput, match="they differ in C, seed: say which one"):
        varied.C(read.optima[0].model, train.name)
    said = json.loads((tmp_path / "optima.json").read_text())
    assert "scikit-learn" in said["convention"]
    (tmp_path / "optima.json").write_text(json.dumps({**said, "convention": "λ"}))
    with pytest.raises(BadInput, match="translate it with"):
        probe.import_optima(tmp_path / "optima.json")
    table = probe.results.table(tmp_path / "r")
    assert sorted(table["C"]) == sorted(one.C for one in written.optima)
    assert probe.results.table(found).shape == probe.results.table(found.records).shape == table.shape
