"""What a run's own computations need, found by doing them on tensors that have shapes and no values."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sdtune.data.captions.treating import example_captions
from sdtune.models.base import Part, join_conditionings
from sdtune.models.quantize import packed_saving, quantized_layers
from sdtune.train.needs.live import LiveBytes
from sdtune.train.step.forward import StepInputs, TrainStep
from sdtune.train.step.objective import make_objective
from sdtune.train.watching.previews import preview_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from sdtune.data.types import Size
    from sdtune.models.base import Conditioning
    from sdtune.train.run import Run

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a run's computations need beside its weights, in bytes.

    Attributes:
        weights: Each part's weights, loaded as the run loads it; trained ones are not counted.
        packed: What parts in few bits take less than they do as stored.
        step: The most that is alive in forward and backward, with all gradients where they are there together.
        encode: The most for one image's latents (of `data.cache.vae_batch_size` images while caches are filled).
        text: The most for encoding a caption.
        preview: The most for a preview; 0 without any.
        conditioning: One cached caption.
        flops: Floating-point operations of one forward and backward.
    """

    weights: dict[Part, int]
    packed: int
    step: int
    encode: int
    text: int
    preview: int
    conditioning: int
    flops: int


def measure(run: Run, *, uses_text_cache: bool) -> Footprint:
    """Do a step, an encoding and a preview of an assembled run on tensors without values.

    Args:
        run: The run; it is left as it was.
        uses_text_cache: Whether captions come from a cache.
    """
    hollow = [part for part in PARTS if not run.model.is_loaded(part)]
    with _without_values(run) as fake:
        weights = {part: _weights(run, part, is_hollow=part in hollow) for part in PARTS}
        caption = _longest_caption(run)
        with torch.no_grad():
            text = LiveBytes(fake)
            with text:
                cond = run.model.encode_prompt([caption])
            encode = _counted(fake, lambda: _encode(run))
            preview = _preview(run, fake, cond)
        step = _step(run, fake, caption, cond if uses_text_cache else None)
        return Footprint(
            weights=weights,
            packed=sum(
                _to_be_packed(run, part, part in hollow)
                + sum(layer.full_nbytes - layer.nbytes for layer in quantized_layers(run.model.part(part)))
                for part in PARTS
            ),
            step=step.peak,
            encode=encode.peak,
            text=text.peak,
            preview=preview,
            conditioning=_bytes(cond.hidden) + (0 if cond.pooled is None else _bytes(cond.pooled)),
            flops=step.flops,
        )


@contextmanager
def _without_values(run: Run) -> Iterator[FakeTensorMode]:
    """Make all tensors fake, and put parts that are not loaded in their places; undo it all in the end."""
    modes = [(module, module.training) for module in run.model.modules()]
    lacking = [part for part in PARTS if not run.model.is_loaded(part)]
    with torch.random.fork_rng(devices=[]):
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                for part in lacking:
                    run.model.load_empty(part)
                yield fake
        finally:
            for part in lacking:
                run.model.unload(part)
            for module, is_training in modes:
                module.training = is_training


def _weights(run: Run, part: Part, *, is_hollow: bool) -> int:
    trained = {id(parameter) for parameter in run.parameters().values()}
    module = run.model.part(part)
    tensors = [*module.parameters(), *module.buffers()]
    whole = sum({id(tensor): _bytes(tensor) for tensor in tensors if id(tensor) not in trained}.values())
    return whole + sum(layer.nbytes for layer in quantized_layers(module)) - _to_be_packed(run, part, is_hollow)


def _to_be_packed(run: Run, part: Part, is_hollow: bool) -> int:
    """Give what a part that is here as stored will lose when it is loaded."""
    form = run.model.source.options.quantize if is_hollow and part != "vae" else None
    return packed_saving(run.model.part(part), form)


def _step(run: Run, fake: FakeTensorMode, caption: str, cond: Conditioning | None) -> LiveBytes:
    """Do forward and backward of the largest batch."""
    counter, trained = LiveBytes(fake), list(run.parameters().values())
    for tensor in [*run.model.parameters(), *run.model.buffers(), *trained]:
        counter.exclude(fake.from_tensor(tensor))
    keeps = run.options.train.gradient_accumulation == 1 and not run.options.train.fused_backward
    hooks = [cast("Any", parameter).register_hook(_keeper(counter, is_kept=keeps)) for parameter in trained]
    module = TrainStep(run.model, run.method, make_objective(run.options, run.model)).train()
    try:
        inputs = _inputs(run, caption, cond)
        with counter:
            losses, _ = module(inputs)
            torch.autograd.grad(losses.sum(), trained, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return counter


def _keeper(counter: LiveBytes, *, is_kept: bool) -> Callable[[Tensor], Tensor]:
    """Make a hook that counts a gradient as kept to the end of the step, or as added to one there and freed."""

    def keep(grad: Tensor) -> Tensor:
        counter.add(_bytes(grad) if is_kept else 0)
        return grad.new_zeros(1).expand(grad.shape)

    return keep


def _inputs(run: Run, caption: str, cond: Conditioning | None) -> StepInputs:
    (size, batch), factor = run.order.largest, run.model.latent_factor
    shape = (batch, run.model.latent_channels, size.height // factor, size.width // factor)
    zeros = torch.zeros(shape, device=run.device)
    return StepInputs(
        pixels=None,
        mean=zeros,
        std=zeros,
        posterior_noise=zeros,
        noise=zeros,
        timesteps=torch.zeros(batch, dtype=torch.int64, device=run.device),
        captions=(caption,) * batch,
        cond=None if cond is None else _repeated(cond, batch),
        weights=torch.ones(batch, device=run.device),
        sizes=torch.ones(batch, 6, device=run.device),
    )


def _preview(run: Run, fake: FakeTensorMode, cond: Conditioning) -> int:
    """Give the most that a preview needs: the UNet for both sides of the guidance, then the VAE."""
    requests = preview_requests(run)
    if not requests:
        return 0
    size = max((request.size for request in requests), key=lambda size: size.width * size.height)
    factor = run.model.latent_factor
    sides, channels = (size.height // factor, size.width // factor), run.model.latent_channels
    both = _repeated(cond, 1 if requests[0].cfg == 1 else 2)
    x_t = torch.zeros(len(both.hidden), channels, *sides, device=run.device)
    timesteps = torch.zeros(len(x_t), dtype=torch.int64, device=run.device)
    denoise = _counted(fake, lambda: run.model.denoise(x_t, timesteps, both))
    decode = _counted(fake, lambda: run.model.decode_latents(x_t[:1]))
    return max(denoise.peak, decode.peak)


def _encode(run: Run) -> object:
    """Encode what the VAE is given at once: some images for the cache, one in a step without a cache."""
    cache, size = run.options.data.cache, largest_bucket(run)
    count = 1 if cache.latents == "off" else cache.vae_batch_size
    return run.model.encode_images(torch.zeros(count, 3, size.height, size.width, device=run.device))


def _counted(fake: FakeTensorMode, compute: Callable[[], object]) -> LiveBytes:
    counter = LiveBytes(fake)
    with counter:
        compute()
    return counter


def largest_bucket(run: Run) -> Size:
    """Give the run's largest bucket."""
    return next(iter(run.bucket_counts()))


def _longest_caption(run: Run) -> str:
    """Find the longest caption as the method words it, by letters: of one length in tokens nearly all are."""
    images = run.index.images
    row, longest = max(enumerate(example_captions(images)), key=lambda pair: len(pair[1]))
    forms = run.method.captions(longest, images.subsets[row])
    return max(forms, key=len)


def _repeated(cond: Conditioning, count: int) -> Conditioning:
    return join_conditionings([cond] * count)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize
