"""Perceptual hashes, and which pictures are nearly the same: re-encoded, resized, a little cropped, mirrored."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from sdtune.data.check.pictures import PictureFacts

    Bits = NDArray[np.uint64]

MOST_BITS = 20
"""Of 128 bits, how many nearly the same pictures differ in; different photographs of one subject differ in 23 and more,
different pictures in 33 and more (the photographs that thresholds were set by)."""

_THUMB_PX = 128
_CORNER, _MIDDLE = 0.06, 0.05
_CUTS = (
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 1 - _CORNER, 1 - _CORNER),
    (_CORNER, 0.0, 1.0, 1 - _CORNER),
    (0.0, _CORNER, 1 - _CORNER, 1.0),
    (_CORNER, _CORNER, 1.0, 1.0),
    (_MIDDLE, _MIDDLE, 1 - _MIDDLE, 1 - _MIDDLE),
)
"""The picture and cuts of it (left, top, right, bottom), since a cropped copy is like one of them."""
_MIRRORED_CUTS = [0, 2, 1, 4, 3, 5]
_HEX = 16  # digits of 64 bits
_BANDS = 6  # of each hash
_BAND_BITS, _BAND_BITS_MANY, _MANY = 12, 16, 10_000
_MOST_ALIKE = 1000  # what shares a band with more pictures than this is told by its other bands
_PAIRS_AT_ONCE = 1 << 21
_LEFT_HALF = np.arange(8) < 4


def _cosines(side: int, count: int) -> NDArray[np.float64]:
    """Give the first rows of the discrete cosine transform, type II."""
    waves: NDArray[np.float64] = np.cos(np.pi * np.outer(np.arange(count), 2 * np.arange(side) + 1) / (2 * side))
    return waves


_COSINES = _cosines(32, 8)


def fingerprint(small: Image.Image) -> str:
    """Hash a picture and cuts of it: for each, 64 bits of rising or falling brightness and 64 of low frequencies.

    dHash and pHash as of the library imagehash, but symmetric, so that the hashes of a mirrored picture follow.

    Returns:
        Hex, 32 digits for each cut.
    """
    thumb = small.resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX).convert("F")
    return "".join(_pack(bits) for cut in _CUTS for bits in _hash(thumb, cut))


def _hash(thumb: Image.Image, cut: tuple[float, float, float, float]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    left, top, right, bottom = (share * _THUMB_PX for share in cut)
    box = (left, top, right, bottom)
    steps = np.diff(np.asarray(thumb.resize((9, 8), Image.Resampling.BOX, box)), axis=1)
    rises = (steps > 0) | ((steps == 0) & _LEFT_HALF)  # even areas, too, are turned round by a mirror
    small = np.asarray(thumb.resize((32, 32), Image.Resampling.BOX, box))
    return rises, (_COSINES @ small @ _COSINES.T) > 0


def _pack(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()


def near_duplicates(facts: Sequence[PictureFacts]) -> list[tuple[int, ...]]:
    """Find pictures that are nearly the same, the same file among them, each with its like.

    Compared are only those that agree in all of 12 chosen bits of a hash, for one of 12 choices (16 bits where there
    are many pictures), so that the time does not grow with the square of their number. Of copies that differ in 20 bits
    a part is missed, of those that differ in 10 hardly any.

    Args:
        facts: Of all pictures; unreadable and blank ones are left out.

    Returns:
        Groups of two and more places in `facts`, each in order.
    """
    places = [place for place, fact in enumerate(facts) if fact.fingerprint and not fact.is_blank]
    if len(places) < 2:
        return []
    straight = _unpack([facts[place].fingerprint for place in places])
    group = list(range(len(places)))
    for first, second in _pairs(straight):
        group[_root(group, first)] = _root(group, second)
    members = defaultdict(list)
    for own, place in enumerate(places):
        members[_root(group, own)].append(place)
    return sorted(tuple(places) for places in members.values() if len(places) > 1)


def _root(group: list[int], member: int) -> int:
    while group[member] != member:
        group[member] = group[group[member]]
        member = group[member]
    return member


def _unpack(fingerprints: Sequence[str]) -> Bits:
    """Give (N, cuts, 2) hashes."""
    values = np.frombuffer(bytes.fromhex("".join(fingerprints)), dtype=">u8").astype(np.uint64)
    return values.reshape(len(fingerprints), len(_CUTS), 2)


def _mirrored(hashes: Bits) -> Bits:
    """Give the hashes of the mirrored pictures: rises become falls from right to left, odd waves change their sign."""
    cuts = np.ascontiguousarray(hashes[:, _MIRRORED_CUTS]).astype(">u8")
    bits = np.unpackbits(cuts.view(np.uint8), axis=-1).reshape(len(hashes), -1, 2, 8, 8)
    bits[:, :, 0] = 1 - bits[:, :, 0, :, ::-1]
    bits[:, :, 1, :, 1::2] ^= 1
    packed = np.packbits(bits.reshape(len(hashes), -1, 2, 64), axis=-1)
    return packed.view(">u8")[..., 0].astype(np.uint64)


def _pairs(straight: Bits) -> Iterator[tuple[int, int]]:
    """Give pairs that are alike: each picture against the cuts of all others, as they are and mirrored."""
    whole = np.ascontiguousarray(straight[:, 0])
    bands = _band_keys(whole)
    orders = np.argsort(bands, axis=0, kind="stable")
    for hashes in (straight, _mirrored(straight)):
        for cut in range(len(_CUTS)):
            others = np.ascontiguousarray(hashes[:, cut])
            keys = _band_keys(others)
            for band in range(bands.shape[1]):
                order = orders[:, band]
                yield from _alike(whole, order, bands[order, band], others, keys[:, band])


def _band_keys(hashes: Bits) -> Bits:
    """Give (N, bands) keys, each of bits of one hash that lie apart: those that lie together tell the same."""
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8), axis=-1).reshape(len(hashes), 2, 64)
    count = _BAND_BITS if len(hashes) <= _MANY else _BAND_BITS_MANY
    weights = (1 << np.arange(count)).astype(np.uint64)
    choices = [(7 * band + (2 * band + 5) * np.arange(count)) % 64 for band in range(_BANDS)]
    return np.stack([bits[:, kind, chosen] @ weights for kind in (0, 1) for chosen in choices], axis=1)


def _alike(whole: Bits, order: NDArray[np.intp], known: Bits, others: Bits, keys: Bits) -> Iterator[tuple[int, int]]:
    """Compare pictures whose keys are equal; `known` are the keys of `whole[order]`, sorted."""
    starts = np.searchsorted(known, keys, "left")
    counts = np.searchsorted(known, keys, "right") - starts
    counts[counts > _MOST_ALIKE] = 0
    ends = np.cumsum(counts)
    for low in range(0, int(ends[-1]), _PAIRS_AT_ONCE):
        pair = np.arange(low, min(low + _PAIRS_AT_ONCE, int(ends[-1])))
        first = np.searchsorted(ends, pair, "right")
        second = order[starts[first] + pair - (ends[first] - counts[first])]
        bits = _count_bits(whole[second] ^ others[first]).sum(axis=1)
        near = (bits <= MOST_BITS) & (first != second)
        yield from zip(first[near].tolist(), second[near].tolist(), strict=True)


def _count_bits(values: Bits) -> Bits:
    """Count the bits that are set, all values at once (Warren, Hacker's Delight, 5-1)."""
    ones, twos, fours = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    values = values - ((values >> np.uint64(1)) & ones)
    values = (values & twos) + ((values >> np.uint64(2)) & twos)
    values = (values + (values >> np.uint64(4))) & fours
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
