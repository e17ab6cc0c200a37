"""JPEG files decoded on the device where the network runs, by torchvision; only this file knows its ``decode_jpeg``.

``Preprocessing.decoder = "nvjpeg"``: the numbers differ from PIL's by more than rounding (another inverse transform, another
upsampling of colour, a resize of tensors), so that the decoder is part of a feature's identity. On the device go whole JPEG files
of YCbCr or grey pixels that need not be turned; whatever else there is (PNG, CMYK, a turned photograph, a file without an end, one
whose pixels are RGB or sampled as hardly anybody does, arrays) and what has a shift is decoded by PIL and resized on the device.
Which of the two it is, the file alone decides.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import BadInput, UnreadableImage
from featstore.loading import MAX_TASK, Loader, in_order, naming_sample

if TYPE_CHECKING:
    import torch

    from featstore.preprocessing import Preprocessing
    from featstore.splits import Split
    from featstore.stages import Stages

__all__ = ["EncodedBatch", "check_decoder", "load_encoded"]

END = b"\xff\xd9"
ORIENTATION, UPRIGHT = 0x0112, (None, 1)
SAMPLINGS = ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1))
"""Pixels of brightness for one of colour, across and down: 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1. Others nvJPEG need not know."""
RGB_IDS = (82, 71, 66)
MODES = ("bilinear", "bicubic")
"""Interpolations that tensors can be resized by."""


def check_decoder(preprocessing: Preprocessing, device: torch.device) -> None:
    """Raise `BadInput` where a decoder cannot be had on a device, or cannot do what a preprocessing says."""
    if preprocessing.decoder == "pil":
        return
    if device.type != "cuda":
        raise BadInput(
            f"the decoder '{preprocessing.decoder}' runs on CUDA devices and the device is '{device}'; use decoder 'pil', whose "
            "features are others."
        )
    if preprocessing.resize is not None and preprocessing.interpolation not in MODES:
        raise BadInput(
            f"images are resized by '{preprocessing.interpolation}', and the decoder '{preprocessing.decoder}' resizes tensors, "
            f"which can be done by {' and '.join(MODES)}; use decoder 'pil'."
        )


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Some images of a split on their way to a device.

    Attributes
    ----------
    split : Split
    rows : range
    preprocessing : Preprocessing
    images : list
        For every row the bytes of a JPEG file, or decoded uint8 (h, w, c).
    """

    split: Split
    rows: range
    preprocessing: Preprocessing
    images: list[Any]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> torch.Tensor:
        """Return the pixels as the network takes them, (n, h, w, c) uint8 on the device.

        Raises
        ------
        UnreadableImage, BadInput
            Naming the sample.
        """
        import torch

        on_device = [k for k, image in enumerate(self.images) if isinstance(image, bytes)]
        decoded = dict(zip(on_device, self._decoded(on_device, device), strict=True))
        prepared = []
        for k, image in enumerate(self.images):
            if k not in decoded:
                decoded[k] = torch.from_numpy(image).to(device, non_blocking=non_blocking).permute(2, 0, 1)
            prepared.append(naming_sample(self.split, self.rows[k], partial(resized, decoded[k], self.preprocessing)))
        return torch.stack(prepared).permute(0, 2, 3, 1)

    def _decoded(self, which: Sequence[int], device: torch.device) -> list[torch.Tensor]:
        import torch

        files = [torch.frombuffer(bytearray(self.images[k]), dtype=torch.uint8) for k in which]
        if not files:
            return []
        try:
            return _decode(files, self.preprocessing.mode, device)
        except RuntimeError:
            pass  # one by one, to know which it is
        found = []
        for k, file in zip(which, files, strict=True):
            try:
                found += _decode([file], self.preprocessing.mode, device)
            except RuntimeError as error:
                first = (str(error).splitlines() or ["no reason given"])[0]
                raise UnreadableImage(
                    f"{self.split.samples.describe(self.rows[k])} does not decode on {device}: {first}. Decode by PIL (decoder "
                    "'pil'), or mend the file."
                ) from error
        return found


def _decode(files: list[torch.Tensor], mode: str, device: torch.device) -> list[torch.Tensor]:
    """Return (c, h, w) uint8 on the device for the bytes of each file."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # torchvision decodes on a stream of its own into memory of this one, and does not wait for what this one does with it
        torch.cuda.current_stream(device).synchronize()
    with warnings.catch_warnings():
        # torchvision announces from 0.29 on that TorchCodec will take its decoders over
        warnings.simplefilter("ignore", DeprecationWarning)
        return list(decode_jpeg(files, mode=ImageReadMode.RGB if mode == "RGB" else ImageReadMode.GRAY, device=device))


def resized(image: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return (c, h, w) uint8 resized and cropped as a preprocessing says; the same steps as `Preprocessing.pixels`, on tensors."""
    import torch
    from torch.nn import functional as F

    if preprocessing.resize is not None:
        size = preprocessing.resized_size(int(image.shape[1]), int(image.shape[2]))
        if size != tuple(image.shape[1:]):
            x = image[None].to(torch.float32)
            x = F.interpolate(x, size, mode=preprocessing.interpolation, antialias=True, align_corners=False)
            image = x[0].round_().clamp_(0, 255).to(torch.uint8)
    if preprocessing.crop is not None:
        (height, width), (h, w) = preprocessing.crop, (int(image.shape[1]), int(image.shape[2]))
        missing = max(height - h, 0), max(width - w, 0)
        if any(missing):
            image = F.pad(image, (missing[1] // 2, -(-missing[1] // 2), missing[0] // 2, -(-missing[0] // 2)))
        top, left = round((image.shape[1] - height) / 2.0), round((image.shape[2] - width) / 2.0)
        image = image[:, top : top + height, left : left + width]
    if tuple(image.shape[1:]) != preprocessing.input_size:
        raise BadInput(
            f"the image is {image.shape[1]} × {image.shape[2]} after preprocessing and the network takes "
            f"{preprocessing.input_size[0]} × {preprocessing.input_size[1]}; give the preprocessing a resize and a crop."
        )
    return image


def load_encoded(
    split: Split, preprocessing: Preprocessing, batches: Sequence[range], loader: Loader, stages: Stages
) -> Generator[tuple[range, EncodedBatch]]:
    """Yield the rows and the files of each batch, in order, while those of the next ones are read; see `load_batches`."""
    stages.shared_by(loader.workers, "read and decode")
    with ThreadPoolExecutor(loader.workers, thread_name_prefix="featstore-read") as pool:

        def begin(rows: range) -> tuple[None, list[Future[tuple[list[Any], float]]]]:
            step = min(-(-len(rows) // loader.workers), MAX_TASK)
            return None, [
                pool.submit(_read, split, preprocessing, rows[a : a + step]) for a in range(0, len(rows), step)
            ]

        try:
            for rows, _, read in in_order(batches, loader.ahead, begin, stages):
                for _, seconds in read:
                    stages.add("read and decode", seconds)
                yield rows, EncodedBatch(split, rows, preprocessing, [image for some, _ in read for image in some])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(split: Split, preprocessing: Preprocessing, rows: Sequence[int]) -> tuple[list[Any], float]:
    begun = time.perf_counter()
    images = [_file_or_pixels(split, preprocessing, i) for i in rows]
    return images, time.perf_counter() - begun


def _file_or_pixels(split: Split, preprocessing: Preprocessing, i: int) -> bytes | np.ndarray:
    """Return the bytes of a JPEG file that the device decodes, or the pixels (h, w, c) that PIL has decoded."""
    if not split.transforms:
        data = split.samples.read(i)
        if isinstance(data, bytes) and _is_plain_jpeg(data):
            return data
    image = split.image(i)
    return naming_sample(split, i, lambda: preprocessing.eight_bit_pixels(image))


def _is_plain_jpeg(data: bytes) -> bool:
    """Return whether a file is a JPEG of RGB or grey pixels, upright, of a size that PIL accepts, with its end."""
    from PIL import Image

    if not data.startswith(b"\xff\xd8") or not data.rstrip(b"\0").endswith(END):
        return False
    try:
        image = Image.open(io.BytesIO(data))  # reads the header; refuses what would unpack to too many pixels
        upright = image.getexif().get(ORIENTATION) in UPRIGHT
    except Exception:  # PIL says what is wrong when it decodes
        return False
    return image.format == "JPEG" and upright and (image.mode == "L" or (image.mode == "RGB" and _is_ycbcr(image)))


def _is_ycbcr(image: Any) -> bool:
    """Return whether the three channels of a JPEG file are brightness and colour, as libjpeg decides it, of a usual sampling."""
    ids, across, down, _ = zip(*image.layer, strict=True)
    if "jfif" not in image.info and (image.info.get("adobe_transform") == 0 or ids == RGB_IDS):
        return False
    return (across[0], down[0]) in SAMPLINGS and set(across[1:]) == set(down[1:]) == {1}
