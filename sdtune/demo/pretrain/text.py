"""The text stage: a CLIP text model that learns what captions say, before it is frozen for the UNet."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import CLIPTextConfig, CLIPTextModel

from sdtune.demo.captions import UNMENTIONED, Caption, caption
from sdtune.demo.pretrain.loop import Schedule, Stage, generator, record
from sdtune.demo.pretrain.tokenizer import MAX_LENGTH
from sdtune.demo.scenes import CHOICES, sample_scene

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import CLIPTokenizer

    from sdtune.demo.scenes import Split

logger = logging.getLogger(__name__)
WIDTH = 128
_SEED = 13
_BATCH, _LR = 64, 1e-3
_POOL = 60_000
_LM_WEIGHT = 0.1
_PADS = 3  # pad positions behind the content in the short batches
_FULL_EVERY = 8  # every eighth batch is padded to 77 tokens, as Stable Diffusion pads


def new_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained 12-layer CLIP text model of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=12,
        num_attention_heads=4,
        projection_dim=WIDTH,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class CaptionReader(nn.Module):
    """A text model with heads for the next token and for every attribute ("not mentioned" is a class)."""

    def __init__(self, text_model: CLIPTextModel) -> None:
        super().__init__()
        self.text_model = text_model
        self.next_token = nn.Linear(WIDTH, text_model.config.vocab_size)
        self.sizes = [len(values) + 1 for values in CHOICES.values()]
        self.attributes = nn.Linear(WIDTH, sum(self.sizes))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Return (B, L, 128) states after the final layer norm."""
        return cast("torch.Tensor", self.text_model(input_ids=ids).last_hidden_state)

    def attribute_logits(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 128) states to one (N, classes) tensor per attribute."""
        return self.attributes(states).split(self.sizes, dim=-1)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionPool:
    """Tokenised captions, sorted by length: ids (N, 77) and attribute labels (N, 8)."""

    ids: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor


def caption_pool(tokenizer: CLIPTokenizer, seed: int, count: int, split: Split = "train") -> CaptionPool:
    """Return `count` captions of as many scenes; one in thirty is empty."""
    empty = Caption(text="", labels=(UNMENTIONED,) * len(CHOICES))
    captions = [empty if i % 30 == 0 else caption(sample_scene(seed, i, split), 0) for i in range(count)]
    encoded = tokenizer([c.text for c in captions], padding="max_length", max_length=MAX_LENGTH, truncation=True)
    lengths = torch.tensor(encoded["attention_mask"]).sum(1)
    classes = torch.tensor([len(values) for values in CHOICES.values()])
    labels = torch.tensor([c.labels for c in captions])
    labels = torch.where(labels == UNMENTIONED, classes, labels)
    order = lengths.argsort(stable=True)
    return CaptionPool(ids=torch.tensor(encoded["input_ids"])[order], lengths=lengths[order], labels=labels[order])


def _batch(pool: CaptionPool, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = generator(_SEED, step)
    if step % _FULL_EVERY == 0:
        rows, length = torch.randint(len(pool.ids), (size // 4,), generator=rng), MAX_LENGTH
    else:
        # captions of like length share a batch, so hardly any position is wasted
        window = 2000
        start = int(torch.randint(len(pool.ids) - window, (1,), generator=rng))
        rows = start + torch.randint(window, (size,), generator=rng)
        length = min(MAX_LENGTH, int(pool.lengths[rows].max()) + _PADS)
    return pool.ids[rows, :length], pool.lengths[rows], pool.labels[rows]


def reading_loss(reader: CaptionReader, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return next-token loss inside the captions plus attribute loss at the end token and every pad behind it."""
    states = reader.hidden(ids)
    position = torch.arange(ids.shape[1], device=ids.device)
    inside = position[:-1] < lengths[:, None] - 1
    next_token = cross_entropy(reader.next_token(states[:, :-1][inside]), ids[:, 1:][inside])
    after = position >= lengths[:, None] - 1
    repeated = labels[:, None].expand(-1, ids.shape[1], -1)[after]
    logits = reader.attribute_logits(states[after])
    attributes = sum(cross_entropy(part, repeated[:, i]) for i, part in enumerate(logits))
    return _LM_WEIGHT * next_token + attributes


def train_text(work: Path, tokenizer: CLIPTokenizer, *, steps: int, device: torch.device) -> CLIPTextModel:
    """Train (or resume) the text model, measure it on held-out captions, save it under the work folder."""
    torch.manual_seed(_SEED)
    reader = CaptionReader(new_text_model(tokenizer)).to(device)
    pool = caption_pool(tokenizer, _SEED, _POOL)

    def compute_loss(step: int) -> torch.Tensor:
        ids, lengths, labels = (part.to(device) for part in _batch(pool, step, _BATCH))
        return reading_loss(reader, ids, lengths, labels)

    Stage("text", reader, Schedule(steps=steps, lr=_LR, warmup=100, weight_decay=0.02), work).run(compute_loss)
    accuracy = reading_accuracy(reader.eval(), caption_pool(tokenizer, _SEED + 1, 1500, "held_out"), device)
    logger.info("text: accuracy on held-out captions %s", accuracy)
    record(work, "text", batch=_BATCH, accuracy_on_held_out_captions=accuracy)
    reader.text_model.save_pretrained(work / "text_encoder")
    return reader.text_model


@torch.no_grad()
def reading_accuracy(reader: CaptionReader, pool: CaptionPool, device: torch.device) -> dict[str, float]:
    """Return, for each attribute, how often the last of the 77 positions tells its value."""
    right = torch.zeros(len(CHOICES))
    for ids, labels in zip(torch.split(pool.ids, 100), torch.split(pool.labels, 100), strict=True):
        logits = reader.attribute_logits(reader.hidden(ids.to(device))[:, -1])
        right += torch.stack([(part.argmax(-1).cpu() == labels[:, i]).sum() for i, part in enumerate(logits)])
    return {name: round(float(hits) / len(pool.ids), 4) for name, hits in zip(CHOICES, right, strict=True)}
