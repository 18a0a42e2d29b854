"""Endless pictures of coloured shapes that come with every kind of target: labels, boxes, masks, captions.

Scene `index` of `seed` is always the same picture. For tests and examples of every objective, where real data would be
large, slow or unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BadInput
from ..loading.seeded import generator

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "pink": (250, 130, 190),
    "white": (250, 250, 250),
}
WORDS = ("a", "and", "left", "right", "of", "above", "below")
VOCABULARY = ("<pad>", "<end>", *WORDS, *COLOURS, *SHAPES)
VISIBLE = 0.5  # share of its own pixels that each object keeps, whatever lies on it
PLACES = 12  # positions tried per object before it is left out


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """What the pictures show."""

    size: int = 48  # pixels, height and width
    objects: tuple[int, int] = (1, 3)  # least and most objects; where there is no room, fewer (never none)
    radius: tuple[float, float] = (0.12, 0.24)  # half the extent of an object, share of the side
    background: Literal["plain", "textured"] = "textured"
    label: Literal["shape", "colour", "both"] = "shape"  # what a class is

    def __post_init__(self) -> None:
        if self.size < 16:
            raise BadInput(f"scenes.size is {self.size}; shapes need 16 pixels or more")
        if not 1 <= self.objects[0] <= self.objects[1] <= 100:
            raise BadInput(f"scenes.objects is {list(self.objects)}; give 1 <= least <= most <= 100")
        if not 0.08 <= self.radius[0] <= self.radius[1] <= 0.45:
            raise BadInput(f"scenes.radius is {list(self.radius)}; give 0.08 <= low <= high <= 0.45")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        if self.label == "both":
            return tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
        return SHAPES if self.label == "shape" else tuple(COLOURS)

    @property
    def caption_length(self) -> int:
        """Words of the longest caption, its end included: "a red ring left of a blue square and a ..."."""
        most = self.objects[1]
        return 3 + (5 if most > 1 else 0) + 4 * max(0, most - 2) + 1


class Scene(NamedTuple):
    """One picture and all that is known about it; objects in drawing order, the last lies on top."""

    image: NDArray[np.uint8]  # (H, W, 3)
    label: int  # class of the object with the most visible pixels
    labels: NDArray[np.int64]  # (n,)
    boxes: NDArray[np.float32]  # (n, 4) centre x, centre y, width, height in [0, 1], of the visible pixels
    masks: NDArray[np.bool_]  # (n, H, W) visible pixels
    caption: str


class _Thing(NamedTuple):
    shape: int
    colour: int


def scene(seed: int, index: int, cfg: ScenesConfig) -> Scene:
    """Scene number `index` of the endless series `seed`."""
    rng = generator(seed, "scene", index)
    owner = np.zeros((cfg.size, cfg.size), dtype=np.int64)  # which object is seen at each pixel; 0 is background
    areas: list[int] = []
    things: list[_Thing] = []
    colours = rng.permutation(len(COLOURS))  # no colour twice (up to 7 objects): one lying on its like would vanish
    for k in range(int(rng.integers(cfg.objects[0], cfg.objects[1] + 1))):
        thing = _Thing(int(rng.integers(len(SHAPES))), int(colours[k % len(COLOURS)]))
        radius = cfg.size * rng.uniform(*cfg.radius)
        for x, y in rng.uniform(radius, cfg.size - radius, (PLACES, 2)):
            mask = _draw(SHAPES[thing.shape], cfg.size, x, y, radius)
            if _fits(owner, mask, areas):
                things.append(thing)
                areas.append(int(mask.sum()))
                owner[mask] = len(things)
                break
    image = _background(rng, cfg)
    shades = np.array(list(COLOURS.values()))[[t.colour for t in things]] + rng.integers(-12, 13, (len(things), 3))
    image = np.concatenate([np.zeros((1, 3)), shades.clip(0, 255)])[owner] + image * (owner == 0)[:, :, None]
    masks = owner == np.arange(1, len(things) + 1)[:, None, None]
    labels = np.array([_class_of(t, cfg) for t in things], dtype=np.int64)
    boxes = _boxes(masks)
    largest = int(masks.sum((1, 2)).argmax())
    return Scene(image.astype(np.uint8), int(labels[largest]), labels, boxes, masks, _caption(things, boxes))


def _draw(shape: str, size: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    """(size, size): the pixels whose centre lies inside the shape."""
    dx = np.arange(size)[None] + 0.5 - x
    dy = np.arange(size)[:, None] + 0.5 - y
    match shape:
        case "circle":
            inside = dx**2 + dy**2 <= radius**2
        case "ring":
            inside = ((distance := dx**2 + dy**2) <= radius**2) & (distance >= (0.55 * radius) ** 2)
        case "square":
            inside = np.maximum(abs(dx), abs(dy)) <= 0.85 * radius
        case "diamond":
            inside = abs(dx) + abs(dy) <= radius
        case "triangle":
            inside = (abs(dx) <= (dy + radius) / 2) & (dy <= 0.8 * radius)  # the tip is above
        case "cross":
            inside = (np.minimum(abs(dx), abs(dy)) <= 0.33 * radius) & (np.maximum(abs(dx), abs(dy)) <= radius)
        case _:
            raise ValueError(f"no shape is called {shape!r}")
    return inside


def _fits(owner: NDArray[np.int64], mask: NDArray[np.bool_], areas: Sequence[int]) -> bool:
    """Whether every object stays visible enough when this one is laid on top."""
    left = np.bincount(owner[~mask], minlength=len(areas) + 1)[1:]
    return bool(mask.any()) and bool((left >= VISIBLE * np.array(areas)).all())


def _background(rng: np.random.Generator, cfg: ScenesConfig) -> NDArray[np.float64]:
    """(H, W, 3) muted, so that no object drowns in it: flat, or stripes with noise."""
    base = rng.uniform(60, 130) + rng.uniform(-12, 12, 3)
    if cfg.background == "plain":
        return np.broadcast_to(base, (cfg.size, cfg.size, 3))
    wave = rng.uniform(-0.9, 0.9, 2)  # radians per pixel, down and across
    line = np.arange(cfg.size)
    stripes = 14 * np.sin(wave[0] * line[:, None] + wave[1] * line + rng.uniform(0, 6))
    noise = rng.integers(-10, 11, (cfg.size, cfg.size))
    textured: NDArray[np.float64] = base + (stripes + noise)[:, :, None]
    return textured


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 4) the tightest boxes around the masks, as shares of the picture."""
    size = masks.shape[-1]
    across, down = np.logical_or.reduce(masks, 1), np.logical_or.reduce(masks, 2)
    left, right = across.argmax(1), size - across[:, ::-1].argmax(1)
    top, bottom = down.argmax(1), size - down[:, ::-1].argmax(1)
    boxes = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1) / size
    exact: NDArray[np.float32] = boxes.astype(np.float32)
    return exact


def _class_of(thing: _Thing, cfg: ScenesConfig) -> int:
    if cfg.label == "both":
        return thing.colour * len(SHAPES) + thing.shape
    return thing.shape if cfg.label == "shape" else thing.colour


def _caption(things: Sequence[_Thing], boxes: NDArray[np.float32]) -> str:
    colours = tuple(COLOURS)
    words = [f"a {colours[t.colour]} {SHAPES[t.shape]}" for t in things]
    if len(words) == 1:
        return words[0]
    dx, dy = boxes[0, :2] - boxes[1, :2]
    relation = ("left of" if dx < 0 else "right of") if abs(dx) >= abs(dy) else ("above" if dy < 0 else "below")
    return " and ".join([f"{words[0]} {relation} {words[1]}", *words[2:]])


@cache
def _numbers() -> dict[str, int]:
    return {word: i for i, word in enumerate(VOCABULARY)}


def caption_ids(captions: Sequence[str], length: int) -> Tensor:
    """(B, length) int64: one number per word, then <end>, then <pad>."""
    numbers = _numbers()
    out = torch.zeros(len(captions), length, dtype=torch.int64)
    for row, caption in zip(out, captions, strict=True):
        ids = [numbers[word] for word in caption.split()] + [numbers["<end>"]]
        row[: len(ids)] = torch.tensor(ids)
    return out


def scene_batch(cfg: ScenesConfig, seed: int, indices: Sequence[int]) -> dict[str, Any]:
    """These scenes as a batch: targets that differ in number are lists."""
    scenes = [scene(seed, i, cfg) for i in indices]
    images = np.stack([s.image for s in scenes]).transpose(0, 3, 1, 2)
    return {
        "ids": [f"scene/{seed}/{i}" for i in indices],
        "image": torch.from_numpy(np.ascontiguousarray(images)),  # (B, 3, H, W) uint8
        "label": torch.tensor([s.label for s in scenes]),  # (B,)
        "labels": [torch.from_numpy(s.labels) for s in scenes],  # each (n,)
        "boxes": [torch.from_numpy(s.boxes) for s in scenes],  # each (n, 4)
        "masks": [torch.from_numpy(s.masks) for s in scenes],  # each (n, H, W) bool
        "caption": [s.caption for s in scenes],
        "caption_ids": caption_ids([s.caption for s in scenes], cfg.caption_length),  # (B, L)
    }


def scene_batches(
    cfg: ScenesConfig, batch: int, seed: int = 0, rank: int = 0, ranks: int = 1
) -> Callable[[int], Iterator[dict[str, Any]]]:
    """`batches(start_step)` for the trainer: step s is scenes [s * batch, (s + 1) * batch), cut by rank."""
    if batch < ranks or not 0 <= rank < ranks:
        raise BadInput(f"batch is {batch}, rank {rank} of {ranks}; give batch >= ranks and 0 <= rank < ranks")
    first, last = rank * batch // ranks, (rank + 1) * batch // ranks

    def batches(start_step: int) -> Iterator[dict[str, Any]]:
        step = start_step
        while True:
            yield scene_batch(cfg, seed, range(step * batch + first, step * batch + last))
            step += 1

    return batches
