"""Boxes lie on what they were drawn on, whichever way the picture was turned when they were."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tessella.data.names import Names
from tessella.data.origins.frames import SizeColumn, clipped, compared, turn_of, upright
from tessella.data.origins.tally import Tally
from tessella.data.origins.targets import Boxes
from tessella.data.pixels.decode import decode, header
from tessella.errors import BadInput


def drawn(turn: int, width: int = 40, height: int = 24) -> bytes:
    """A white rectangle at 5, 3, 17, 9 of the pixels as stored."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[3:9, 5:17] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", exif=exif)
    return file.getvalue()


def seen(data: bytes) -> list[int]:
    """Where it is in the picture as every verb sees it."""
    rows, columns = np.nonzero(decode(data)[:, :, 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_boxes_of_the_stored_picture_are_turned_with_it(turn: int) -> None:
    data = drawn(turn)
    head = header(data)
    assert (head.height, head.width) == (40, 24) and turn_of((24, 40), head) == turn
    boxes = Boxes.of([[5, 3, 17, 9]], [0])
    assert upright(boxes, (24, 40), head).corners.tolist() == [seen(data)]
    assert upright(boxes, (40, 24), head).corners.tolist() == boxes.corners.tolist() != [seen(data)]


@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_where_the_size_says_nothing_boxes_are_upright(turn: int) -> None:
    head = header(drawn(turn))
    assert turn_of((24, 40), head) == 1 and turn_of((0, 0), head) == 1 and turn_of((0, 40), head) == 1
    assert turn_of((24, 24), header(drawn(6, 24, 24))) == 1


def test_another_size_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"^a\.png is 40 x 24 pixels, but its boxes were drawn on 80 x 48"):
        turn_of((48, 80), header(drawn(1)), "a.png")


def test_boxes_are_clipped_and_what_is_no_box_is_counted() -> None:
    corners = np.array(
        [[1, 1, 5, 5], [-0.5, 1, 5, 5], [1, 1, 1, 5], [3, 3, 2, 5], [50, 1, 60, 5], [30, 10, 50, 30]], float
    )
    sizes = np.array([[24, 40]] * 5 + [[0, 0]])
    tally = Tally()
    inside, good = clipped(corners, sizes, list("abcdef"), tally)
    assert good.tolist() == [0, 1, 5] and inside[5].tolist() == [30, 10, 50, 30] and inside[1].tolist() == [0, 1, 5, 5]
    assert tally.first == {
        "boxes left out: their width or height is not above 0": "c",
        "boxes left out: nothing of them is inside their picture": "e",
    }
    inside, good = clipped(corners[5:], np.array([[24, 40]]), ["f"], tally)
    assert inside.tolist() == [[30, 10, 40, 24]] and tally.notes("x")[-1].startswith("x: 1 boxes reach out of their")


class Held:
    def __init__(self, *data: bytes) -> None:
        self.data = data

    def read(self, row: int) -> bytes:
        return self.data[row]


def test_a_few_are_compared() -> None:
    sizes = SizeColumn(np.array([[24, 40], [24, 40], [9, 9], [0, 0], [1, 1]]))
    held = Held(drawn(1), drawn(6), drawn(1), drawn(1), b"no picture")
    odd, turned = compared(held, Names.of("abcde"), sizes)
    assert odd.startswith("2 of 5 pictures looked at are not what") and "c is 40 x 24" in odd
    assert turned.startswith("1 of 5 pictures looked at were annotated as stored") and turned.endswith("(first: b)")
    assert compared(held, Names.of(""), sizes.take(np.array([], dtype=np.int64))) == []
    assert compared(held, Names.of("a"), sizes) == []


def test_column() -> None:
    column = SizeColumn(np.array([[1, 2], [3, 4]]))
    assert len(column) == 2 and column.take(np.array([1]))[0] == (3, 4)
    assert column.digest() != column.take(np.array([1, 0])).digest()
