"""The forward passes of an extraction: batch after batch through the network, pooled, and back to the host.

On a CPU one thing happens after another: a batch is decoded by all cores, then goes through the network on all cores. Decoding
meanwhile would gain nothing, and takes cores away in the middle of parallel sections whose other threads then wait: one run on two
busy cores was three times slower.

On a GPU everything happens at once, so that the network is all that is waited for: the host prepares batches ahead in pinned
memory, a stream copies the next one in while the network works on the last, another stream copies pooled features back, and the
host looks at a batch's features when the next batch has been queued behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from featstore.capture import capture
from featstore.compiled import CompiledChain
from featstore.devices import arithmetic, on_device, repeatable
from featstore.engine import channels_last
from featstore.jpegs import EncodedBatch, load_encoded
from featstore.loading import Loader, default_workers, load_batches
from featstore.stages import Clock, Stages

if TYPE_CHECKING:
    import torch

    from featstore.extraction import Run
    from featstore.manifest import ArrayKey
    from featstore.poolings import Pooling
    from featstore.splits import Split
    from featstore.units import Chain

__all__ = ["Features", "forward", "roofline_of"]

Features: TypeAlias = "Mapping[tuple[str, str], torch.Tensor]"
"""(unit, name of the pooling) -> (n, …) float32."""


def forward(
    run: Run, split: Split, keys: Sequence[ArrayKey], batches: Sequence[range], stages: Stages
) -> Generator[tuple[range, Features]]:
    """Yield the rows of each batch, in order, and what the network says of them, on the CPU.

    The features of a batch must be used before the next one is asked for: their memory may be given to others.
    """
    network = _Network(run, [(key.unit, run.poolings[key.pool]) for key in keys])
    on_gpu = run.device.type == "cuda"
    loader = Loader(
        run.workers or default_workers(),
        run.engine.ahead if on_gpu else 0,
        processes=run.engine.processes,
        pinned=on_gpu,
    )
    prepared = run.backbone.preprocessing
    load = load_batches if prepared.decoder == "pil" else load_encoded
    loaded: Generator[tuple[range, Any]] = load(split, prepared, batches, loader, stages)
    with network.ready(), closing(loaded):
        yield from _overlapping(network, loaded, stages) if on_gpu else _in_turn(network, loaded, stages)


def roofline_of(run: Run, keys: Sequence[ArrayKey]) -> tuple[float, float]:
    """Return floating-point operations per image of the forward pass, and those per second that the device can do at most."""
    from featstore.roofline import flops_per_image, peak_flops

    with on_device(run.backbone.chain, run.device):
        x = run.backbone.example().to(run.device)
        return flops_per_image(run.backbone.chain, x, {key.unit for key in keys}), peak_flops(run.device, run.precision)


class _Network:
    """The network of a run, with what is wanted of it."""

    def __init__(self, run: Run, wanted: Collection[tuple[str, Pooling]]) -> None:
        self.run, self.wanted, self.device = run, wanted, run.device
        self.chain: Chain | CompiledChain = run.backbone.chain
        self.channels_last = run.engine.is_channels_last(
            run.backbone, run.device, run.precision, deterministic=run.deterministic
        )

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have the network on its device, in the arithmetic that is asked for."""
        run = self.run
        with (
            on_device(run.backbone.chain, self.device),
            arithmetic(run.precision, self.device),
            repeatable(run.deterministic),
            channels_last(run.backbone.chain, self.channels_last),
        ):
            if run.engine.compile:
                from featstore.compiled import CompiledChain

                self.chain = CompiledChain(run.backbone.chain, {unit for unit, _ in self.wanted}, run.batch_size)
            yield

    def __call__(self, pixels: torch.Tensor, clock: Clock) -> dict[tuple[str, str], torch.Tensor]:
        """Return (unit, pooling) -> (n, …) float32 on the device, for (n, h, w, c) uint8 there."""
        import torch

        with clock("forward"):
            x = self.run.backbone.preprocessing.normalize(pixels, channels_last=self.channels_last)
            if not self.run.deterministic:
                return capture(self.chain, x, self.wanted, self.run.axes, clock)
            # Libraries choose their algorithms, and with them the order of sums, by the shape of the whole batch.
            alone = [capture(self.chain, x[i : i + 1], self.wanted, self.run.axes, clock) for i in range(len(x))]
            return {which: torch.cat([one[which] for one in alone]) for which in alone[0]}


def _in_turn(
    network: _Network, loaded: Generator[tuple[range, Any]], stages: Stages
) -> Generator[tuple[range, Features]]:
    """See `forward`; for a CPU, and for devices without streams."""
    for rows, pixels in loaded:
        with stages.timed("copy in"):
            x = pixels.to(network.device)
        found = network(x, stages.timed)
        with stages.timed("copy back"):
            host = {which: value.cpu() for which, value in found.items()}
        yield rows, host


@dataclass(eq=False)
class _OnItsWay:
    """A batch in the queues of a GPU.

    Attributes
    ----------
    rows : range
    features : dict
        Pinned memory that is being written.
    done : torch.cuda.Event
        When it is written.
    spans : list
        Stage, the one that it lay inside of, and the events between which it ran.
    """

    rows: range
    features: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    done: Any = None
    spans: list[tuple[str, str | None, Any, Any]] = field(default_factory=list)

    @contextmanager
    def clock(self, stage: str, inside: str | None = None) -> Iterator[None]:
        """Measure what the block queues into the current stream; a `featstore.stages.Clock`."""
        begun, ended = _event(), _event()
        begun.record()
        yield
        ended.record()
        self.spans.append((stage, inside, begun, ended))

    def arrived(self, stages: Stages) -> tuple[range, Features]:
        """Wait until the features are in memory, and tell what the stages took."""
        self.done.synchronize()
        for stage, inside, begun, ended in self.spans:
            stages.add(stage, begun.elapsed_time(ended) / 1000, inside)
        return self.rows, self.features


def _overlapping(
    network: _Network, loaded: Generator[tuple[range, Any]], stages: Stages
) -> Generator[tuple[range, Features]]:
    """See `forward`; for CUDA devices."""
    import torch

    device = network.device
    streams: Any = torch.cuda.Stream
    copying_in, copying_back = streams(device), streams(device)
    queued: deque[_OnItsWay] = deque()
    for rows, pixels in loaded:
        with torch.cuda.device(device):
            queued.append(_queue(network, rows, pixels, copying_in, copying_back))
        if len(queued) > 1:
            yield queued.popleft().arrived(stages)
    while queued:
        yield queued.popleft().arrived(stages)


def _queue(
    network: _Network, rows: range, pixels: torch.Tensor | EncodedBatch, copying_in: Any, copying_back: Any
) -> _OnItsWay:
    """Queue one batch: in on one stream, through the network on the current one, back on a third."""
    import torch

    computing = torch.cuda.current_stream()
    batch = _OnItsWay(rows)
    with torch.cuda.stream(copying_in), batch.clock("copy in"):
        x = pixels.to(network.device, non_blocking=True)
    computing.wait_stream(copying_in)
    x.record_stream(computing)  # its memory is not given to another batch before the network has read it
    found = network(x, batch.clock)
    copying_back.wait_stream(computing)
    with torch.cuda.stream(copying_back), batch.clock("copy back"):
        for which, value in found.items():
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            batch.features[which] = host.copy_(value, non_blocking=True)
            value.record_stream(copying_back)
    batch.done = _event()
    batch.done.record(copying_back)  # after the clock's last event: what is asked how long it took must have ended
    return batch


def _event() -> Any:
    """Return what marks a place in a stream, and when it was reached."""
    import torch

    made: Any = torch.cuda.Event
    return made(enable_timing=True)
