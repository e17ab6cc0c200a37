"""The images of a split as examples: decoded, prepared as the backbone wants them, kept in memory where they fit.

What fits is prepared once and kept, as float32 or as 8-bit pixels; what does not is prepared anew for each batch, by
threads ahead of the training. The numbers are the same either way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.ahead import default_workers
from finetune.augmentation import Augmentation

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from featstore import Preprocessing, Split

FLOAT_BYTES = 1 << 29
"""Inputs of at most so many bytes are kept as float32 …"""

CACHE_BYTES = 1 << 31
"""… and those of at most so many as 8-bit pixels; decoded images for augmentation likewise."""


@dataclass(eq=False)
class ImageExamples:
    """Images of a split as network inputs.

    Parameters
    ----------
    split : Split
        Where the images come from, with its shifts applied.
    preprocessing : Preprocessing
        Of the backbone.
    labels : ndarray of shape (n,), int64, or (n, k)
        Classes.
    augmentation : Augmentation or None
        What happens to training images: a function of (seed, sample id, epoch).
    seed : int
        Of the recipe.
    channels_last : bool
        Whether the network is to get them with the channels last in memory.
    device : str
        Where kept inputs are put.
    n_workers : int or None
        Threads; None is one per core.
    cache_bytes : int
        How much may be kept.
    """

    split: Split
    preprocessing: Preprocessing
    labels: np.ndarray
    augmentation: Augmentation | None = None
    seed: int = 0
    channels_last: bool = False
    device: str = "cpu"
    n_workers: int | None = None
    cache_bytes: int = CACHE_BYTES
    _kept: Tensor | None = field(default=None, init=False, repr=False)
    _decoded: dict[int, Image.Image] = field(default_factory=dict, init=False, repr=False)
    _decoded_bytes: int = field(default=0, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def workers(self) -> int:
        """Threads that prepare batches ahead; none where every input is kept."""
        if self.augmentation is None and self._fits:
            return 0
        return default_workers() if self.n_workers is None else self.n_workers

    def inputs(self, rows: np.ndarray, epoch: int | None) -> Tensor:
        """Network inputs of these rows, ``(b, c, h, w)`` float32; augmented in training where that is asked for."""
        import torch

        if epoch is not None and self.augmentation is not None:
            return self._normalized(torch.from_numpy(self._augmented(rows, epoch, self.augmentation)))
        if not self._fits:
            return self._normalized(torch.from_numpy(self._prepared(rows)))
        if self._kept is None:
            self._kept = self._everything()
        chosen = self._kept[torch.from_numpy(rows).to(self._kept.device)]
        return chosen if chosen.is_floating_point() else self._normalized(chosen)

    def _normalized(self, pixels: Tensor) -> Tensor:
        return self.preprocessing.normalize(pixels, channels_last=self.channels_last)

    @property
    def _n_values(self) -> int:
        height, width = self.preprocessing.input_size
        return len(self) * height * width * self.preprocessing.n_channels

    @property
    def _fits(self) -> bool:
        return self._n_values <= self.cache_bytes

    def _everything(self) -> Tensor:
        """All inputs, decoded by threads."""
        import torch

        n_threads = default_workers() if self.n_workers is None else max(self.n_workers, 1)
        blocks = np.array_split(np.arange(len(self)), max(1, min(len(self) // 16, 8 * n_threads)))
        with ThreadPoolExecutor(n_threads, thread_name_prefix="finetune-decode") as pool:
            try:
                pixels = torch.from_numpy(np.concatenate(list(pool.map(self._prepared, blocks))))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        pixels = pixels.to(self.device)
        is_small = 4 * self._n_values <= min(FLOAT_BYTES, self.cache_bytes)
        return self._normalized(pixels) if is_small else pixels

    def _prepared(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of these rows as in evaluation: ``(b, h, w, c)`` uint8."""
        return np.stack([self._named(i, lambda image: self.preprocessing.pixels(image)) for i in rows.tolist()])

    def _augmented(self, rows: np.ndarray, epoch: int, augmentation: Augmentation) -> np.ndarray:
        """Pixels of these rows, augmented: ``(b, h, w, c)`` uint8."""
        return np.stack(
            [
                self._named(i, lambda image, i=i: augmentation.pixels(image, self.preprocessing, self._key(i, epoch)))
                for i in rows.tolist()
            ]
        )

    def _key(self, i: int, epoch: int) -> str:
        return f"{self.seed}:{epoch}:{self.split.ids[i]}"

    def _named(self, i: int, prepare: Any) -> np.ndarray:
        """Pixels of one image; an error names the image."""
        from featstore import BadInput, UnreadableImage

        image = self._image(i)
        try:
            pixels: np.ndarray = prepare(image)
            return pixels
        except (UnreadableImage, BadInput) as error:
            raise type(error)(f"{self.split.samples.describe(i)}: {error}") from error
        except OSError as error:  # PIL finds some damage only when it converts
            raise UnreadableImage(f"{self.split.samples.describe(i)} does not decode to an image: {error}.") from error

    def _image(self, i: int) -> Image.Image:
        """One image, kept decoded where augmentation will want it again and it fits."""
        if self.augmentation is None:
            return self.split.image(i)
        found = self._decoded.get(i)
        if found is None:
            found = self.split.image(i)
            n_bytes = found.width * found.height * len(found.getbands())
            with self._lock:
                if self._decoded_bytes + n_bytes <= self.cache_bytes:
                    self._decoded_bytes += n_bytes
                    self._decoded[i] = found
        return found


def image_examples(
    splits: Mapping[str, Split], labels: Mapping[str, np.ndarray], preprocessing: Preprocessing, names: Sequence[str]
) -> dict[str, ImageExamples]:
    """Examples of some splits, without augmentation."""
    return {name: ImageExamples(splits[name], preprocessing, labels[name]) for name in names}
