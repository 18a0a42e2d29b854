"""What masked pixels cost, patch by patch and number by number, from the papers of MAE and SimMIM."""

from __future__ import annotations

import math

Picture = list[list[list[float]]]  # channel, row, column


def patch(picture: Picture, side: int, row: int, column: int) -> list[float]:
    """Its numbers by row, column, channel."""
    return [
        picture[c][row * side + y][column * side + x]
        for y in range(side)
        for x in range(side)
        for c in range(len(picture))
    ]


def normalised(numbers: list[float]) -> list[float]:
    mean = sum(numbers) / len(numbers)
    variance = sum((n - mean) ** 2 for n in numbers) / (len(numbers) - 1)
    return [(n - mean) / math.sqrt(variance + 1e-6) for n in numbers]


def mae(
    pictures: list[Picture], said: list[list[list[float]]], hidden: list[list[bool]], side: int, norm: bool
) -> float:
    """`said` and `hidden` by picture and patch, row by row."""
    total, count = 0.0, 0
    for picture, words, gone in zip(pictures, said, hidden, strict=True):
        across = len(picture[0][0]) // side
        for i, there in enumerate(gone):
            if there:
                truth = patch(picture, side, i // across, i % across)
                truth = normalised(truth) if norm else truth
                total += sum((a - b) ** 2 for a, b in zip(words[i], truth, strict=True)) / len(truth)
                count += 1
    return total / count


def distance(pictures: list[Picture], said: list[list[list[float]]], hidden: list[list[bool]], side: int) -> float:
    """SimMIM's: the mean absolute difference over hidden pixels."""
    total, count = 0.0, 0
    for picture, words, gone in zip(pictures, said, hidden, strict=True):
        across = len(picture[0][0]) // side
        for i, there in enumerate(gone):
            if there:
                truth = patch(picture, side, i // across, i % across)
                total += sum(abs(a - b) for a, b in zip(words[i], truth, strict=True))
                count += len(truth)
    return total / count
