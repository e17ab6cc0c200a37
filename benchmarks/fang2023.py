"""The study of Fang, Kornblith and Schmidt (2023): does progress on ImageNet transfer to real-world data sets?

    python benchmarks/fang2023.py                        # what the whole study is, and what it takes (a dry run)
    python benchmarks/fang2023.py --run --data-root data --device cuda --part main
    python benchmarks/fang2023.py --small                # what runs on two cores, in minutes

Parts: ``main`` (19 networks × 6 data sets, fine-tuned over the authors' grid of 80 recipes), ``augmentation`` (appendix G: three
networks × AugMix and RandAugment on CCT-20 and APTOS; ResNet-50 also pretrained with either), ``clip`` (LP-FT: a probe first,
then the whole network from it). The authors' loaders read four of the sets with blue and red exchanged: ``+bgr()`` behind a name
does that, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import probe
from benchmarks import small_study
from featstore.published import FANG_2023

SIZES = {
    "cct20": (13_553, 3_484, 15_827, 15, "accuracy"),
    "aptos": (2_931, 731, 731, 5, "quadratic_kappa"),
    "hpa": (22_582, 5_664, 5_664, 28, "macro_f1"),
    "melanoma": (46_372, None, None, 2, "roc_auc"),
    "cassava": (17_120, 4_277, 4_277, 5, "accuracy"),
    "eurosat": (21_600, 5_400, 5_400, 10, "accuracy"),
}
"""Images of train, val and test, classes, metric. Where the authors report on what they choose on, val here is taken from train."""

CHOSEN_ON_TEST = ("aptos", "hpa", "melanoma", "cassava", "eurosat")
EPOCHS, CELLS, BACKWARD = 30, 80, 3
POLICIES = {"default": "", "AugMix": "augmix-m3-w3-d2", "RandAugment": "rand-m9-mstd0.5-inc1"}
CROP = {"kind": "Augmentation", "scale": [0.65, 1.0], "horizontal": 0.5}
PRETRAINED = {"AugMix": "timm:resnet50.ram_in1k", "RandAugment": "timm:resnet50.ra_in1k"}
CLIP = {
    "clip_vit_b_16": ("timm:vit_base_patch16_clip_224.openai", 768),
    "clip_vit_l_14_336": ("timm:vit_large_patch14_clip_336.openai", 1024),
}


def networks(names: Sequence[str] = ()) -> tuple[probe.Network, ...]:
    """The paper's networks, with the top-1 accuracies that their authors state."""
    return tuple(
        probe.Network(name, f"fang2023:{name}", None if p.top1 is None else p.top1 / 100, p.penultimate)
        for name, p in FANG_2023.items()
        if not names or name in names
    )


def datasets(names: Sequence[str] = ()) -> tuple[probe.Dataset, ...]:
    """The paper's data sets; none is chosen on what it is reported on."""
    found = []
    for name, (n_train, n_val, n_test, k, metric) in SIZES.items():
        if not names or name in names:
            val = 0.2 if name in CHOSEN_ON_TEST else f"{name}:val"
            n_val = 0 if name in CHOSEN_ON_TEST else n_val
            found.append(probe.Dataset(name, f"{name}:train", f"{name}:test", val, metric, n_train, n_val, n_test, k))
    return tuple(found)


def studies() -> dict[str, probe.Study]:
    """The parts of the whole study."""
    tuned = _tuned("fine-tuned", {})
    ablated = tuple(
        _tuned(f"fine-tuned, {name}", {"augmentation": {**CROP, "policy": p}}) for name, p in POLICIES.items()
    )
    nets = networks(["resnet50", "deit_tiny", "deit_small"])
    nets += tuple(probe.Network(f"resnet50, {name}", spec, None, 2048) for name, spec in PRETRAINED.items())
    clip = tuple(probe.Network(name, spec, None, d) for name, (spec, d) in CLIP.items())
    after = _tuned("LP-FT", {}, "probe_then_tune")
    return {
        "main": probe.Study(networks(), datasets(), (probe.Regime("logistic"), tuned), name="main"),
        "augmentation": probe.Study(nets, datasets(["cct20", "aptos"]), ablated, name="augmentation"),
        "clip": probe.Study(clip, datasets(), (probe.Regime("logistic"), after), name="clip"),
    }


def _tuned(name: str, recipe: dict[str, object], function: str = "full_tune") -> probe.Regime:
    """The best epoch on val of the best recipe on val, as the authors report it: not trained again."""
    told = {"grid": "fang2023", "recipe": recipe, "refit": False}
    return probe.Regime(name, f"finetune.study:{function}", told, images_per_cell=CELLS * EPOCHS * 14_000 * BACKWARD)


TRAINED = "mobilenetv1_025"
STEPS = {"steps": 30, "batch_size": 16, "lr": 0.01}
SMALL = (
    probe.Regime("logistic"),
    *(
        probe.Regime(
            f"fine-tuned, {name}",
            "finetune.study:full_tune",
            {"recipe": {**STEPS, "augmentation": {**CROP, "policy": p}}},
        )
        for name, p in POLICIES.items()
    ),
    probe.Regime("LP-FT", "finetune.study:probe_then_tune", {"recipe": {**STEPS, "lr": 0.001}}),
)


def small(shared: Path) -> probe.Study:
    """Every network on every set by its probe; the smallest one fine-tuned on two sets, with each augmentation and LP-FT."""
    trained = {"networks": (TRAINED,), "datasets": ("sketch", "bccd_platelets")}
    regimes = (SMALL[0], *(probe.Regime(r.name, r.function, r.options, **trained) for r in SMALL[1:]))
    return probe.Study(small_study.networks(shared), small_study.datasets(shared), regimes, name="fang2023-small",
                       command="python benchmarks/fang2023.py --small")  # fmt: skip


def _draw(found: probe.StudyResults, path: Path) -> None:
    """The paper's question is asked of each data set; the average over them, as in kornblith2019.py, would hide the answer."""
    small_study.draw_each(found, path, TRAINED)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the dry run, or carry out what is asked for."""
    arguments = small_study.options(str(__doc__).splitlines()[0]).parse_args(argv)
    if arguments.run:
        return small_study.run_parts(studies(), arguments)
    if not (arguments.small or arguments.tiny):
        print(small_study.plans(studies(), arguments.out / "fang2023", arguments.part))
        return 0
    study = small_study.tiny((SMALL[0], SMALL[1], SMALL[4])) if arguments.tiny else small(arguments.shared)
    found = probe.run_study(study, arguments.out / study.name, device=arguments.device, scheduler=arguments.scheduler)
    print(found.text())
    print("\n".join(small_study.correlations(found, "logistic")))
    _draw(found, arguments.out / f"{study.name}.png")
    if arguments.publish:
        small_study.publish(found, ("logistic",), study, _draw)
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
