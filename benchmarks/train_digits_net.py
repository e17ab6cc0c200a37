"""Train the network that ``probe quickstart`` uses, on the source half of scikit-learn's digits, and write its weights.

    python benchmarks/train_digits_net.py

Deterministic: the same machine and version of torch give the same bytes. A fifth of the source half is held out to
report accuracy; the network that is written has not seen it. Small shifts of the training images (at most one pixel)
stand in for more of them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from featstore import load_split
from featstore.architectures import ARCHITECTURES
from featstore.splits import Split

EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 150, 64, 2e-3, 1e-3


def tensors_of(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (n, 1, 8, 8) float32 as the network takes them, and labels (n,)."""
    prepare = ARCHITECTURES["digits_net"].preprocessing
    assert split.labels is not None
    images = torch.stack([prepare(split.image(i)) for i in range(len(split))])
    return images, torch.from_numpy(split.labels)


def moved(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return each image of (n, 1, 8, 8) moved by up to one pixel in each direction, filled with black."""
    padded = F.pad(x, (1, 1, 1, 1))
    steps = torch.randint(0, 3, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[:, dy : dy + 8, dx : dx + 8] for image, (dy, dx) in zip(padded, steps, strict=True)])


def train(split: Split, seed: int) -> nn.Module:
    """Return a trained network in eval mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = ARCHITECTURES["digits_net"].build().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    x, y = tensors_of(split)
    n_steps = EPOCHS * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = F.cross_entropy(net(moved(x[rows], generator)), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def accuracy(net: nn.Module, split: Split) -> float:
    """Return the share of images that the network names rightly."""
    x, y = tensors_of(split)
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def main() -> None:
    """Train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bundled = ARCHITECTURES["digits_net"].bundled
    parser.add_argument("--out", type=Path, default=bundled)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order give other bytes
    torch.use_deterministic_algorithms(True)
    rest, held = load_split("digits:source").holdout(0.2, seed=0)
    net = train(rest, arguments.seed)
    print(f"source, training    {accuracy(net, rest):.4f}  ({len(rest)} images)")
    print(f"source, held out    {accuracy(net, held):.4f}  ({len(held)} images)")
    for shift in ("", "+blur(1.0)", "+rotate(30)", "+invert()"):
        target = load_split(f"digits:test{shift}")
        print(f"target test {shift or 'clean':12} {accuracy(net, target):.4f}  ({len(target)} images)")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
