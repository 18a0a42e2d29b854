"""Training views are random in the declared way, seeded by sample, and their crops are torchvision's."""

from __future__ import annotations

import io
import math
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tessella.card import Preprocess
from tessella.data.loading.seeded import generator
from tessella.data.pixels import augment as module
from tessella.data.pixels import policies
from tessella.data.pixels.augment import (
    BOX_DRAWS,
    AugmentConfig,
    augment,
    augment_followed,
    crop_box,
    cut,
    least_size,
    refuse,
    scaled_window,
    stacked,
)
from tessella.data.pixels.decode import decode, upright
from tessella.data.pixels.sniff import Header
from tessella.data.pixels.transforms import evaluation_pixels
from tessella.errors import BadInput


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(held, "PNG")
    return held.getvalue()


def npy(image: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, image)
    return held.getvalue()


def photo(height: int, width: int, turn: int = 1) -> bytes:
    """A smooth JPEG: what scaled decoding is made for."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [np.sin(9 * x + 4 * y + c) * 90 + np.cos(7 * y * (c + 1)) * 35 + 128 for c in range(3)]
    held = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.stack(planes, 2).clip(0, 255).astype(np.uint8)).save(held, "JPEG", quality=95, exif=exif)
    return held.getvalue()


def card(size: tuple[int, int], channels: int = 3, **more: object) -> Preprocess:
    return Preprocess(size=size, mean=(0.5,) * channels, std=(0.5,) * channels, channels=channels, **more)


def numbers(*key: int) -> list[float]:
    return generator(*key).random(BOX_DRAWS).tolist()


@pytest.mark.parametrize("crop", ["resized", "pad", "none"])
@pytest.mark.parametrize("shape", [(28, 28), (1, 1), (1, 500), (70, 40)])
def test_views_have_the_cards_size_and_follow_the_generator(crop: str, shape: tuple[int, int]) -> None:
    data, pre, cfg = png(picture(*shape)), card((32, 48)), AugmentConfig(crop=crop)
    views = [augment(data, cfg, pre, generator(0, epoch, "a")) for epoch in (0, 0, 1, 2, 3, 4, 5)]
    assert all(v.shape == (3, 32, 48) and v.dtype == torch.uint8 for v in views)
    assert torch.equal(views[0], views[1])
    if min(shape) > 1:  # one row leaves a crop of one pixel
        assert any(not torch.equal(views[0], v) for v in views[2:])


ALL = AugmentConfig(
    vertical=0.5, policy="randaugment", deviation=1.5, jitter=(0.4, 0.4, 0.4, 0.1), jittered=0.8, grey=0.3, blur=0.5,
    solarise=0.3, erase=0.5,
)  # fmt: skip


@pytest.mark.parametrize("policy", ["none", "randaugment", "trivial", "three"])
def test_no_other_generator_is_touched(policy: str) -> None:
    random.seed(0)
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    cfg = replace(ALL, policy=policy)
    views = [augment(png(picture(40, 50)), cfg, card((32, 32)), generator(0, i % 40)) for i in range(80)]
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    assert random.getstate() == before[2]
    assert all(torch.equal(a, b) for a, b in zip(views[:40], views[40:], strict=True))
    assert all(v.shape == (3, 32, 32) and v.dtype == torch.uint8 for v in views)


def test_each_setting_changes_views_as_often_as_it_says() -> None:
    """Against the same draws without it: nothing else moves, because the geometry is drawn first."""
    data, pre = png(picture(24, 24)), card((16, 16))
    plain = [augment(data, AugmentConfig(), pre, generator(i)) for i in range(150)]
    settings: dict[str, object] = {"grey": 0.3, "blur": 0.3, "solarise": 0.3, "erase": 0.3, "vertical": 0.3}
    for name, value in settings.items():
        views = [augment(data, AugmentConfig(**{name: value}), pre, generator(i)) for i in range(150)]
        changed = sum(not torch.equal(a, b) for a, b in zip(views, plain, strict=True))
        assert 25 < changed < 65, name
    cfg = AugmentConfig(jitter=(0.4, 0.4, 0.4, 0.1), jittered=0.3)
    views = [augment(data, cfg, pre, generator(i)) for i in range(150)]
    assert 25 < sum(not torch.equal(a, b) for a, b in zip(views, plain, strict=True)) < 65
    for policy in ("randaugment", "trivial", "three"):
        views = [augment(data, AugmentConfig(policy=policy), pre, generator(i)) for i in range(150)]
        assert sum(not torch.equal(a, b) for a, b in zip(views, plain, strict=True)) > 90, policy


def test_what_is_done_to_a_view_does_not_follow_from_what_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of chances: together a quarter of the time."""
    names = ["jitter", "grey", "random_blur", "solarise", "erase"]
    done: list[str] = []
    for name in names:
        monkeypatch.setattr(policies, name, lambda view, *rest, name=name: done.append(name) or view)
    cfg = AugmentConfig(jitter=(0.1, 0.0, 0.0, 0.0), jittered=0.5, grey=0.5, blur=0.5, solarise=0.5, erase=0.5)
    data, pre, rows = png(picture(4, 4)), card((4, 4)), []
    for i in range(400):
        done.clear()
        augment(data, replace(cfg, vertical=0.5), pre, generator(i))
        assert done == [name for name in names if name in done], "in this order"
        rows.append([name in done for name in names])
    between = np.corrcoef(np.array(rows, float).T)
    assert np.abs(between - np.eye(5)).max() < 0.2


def test_a_whole_picture_is_not_shared_with_its_view() -> None:
    image = picture(16, 16)
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that it must not write to
        view = cut(image, (0, 0, 16, 16), card((16, 16)))
    before = image.copy()
    view += 1
    assert np.array_equal(image, before)


def test_flips_have_their_probability() -> None:
    image, pre = picture(8, 8), card((8, 8))
    data, plain = png(image), evaluation_pixels(picture(8, 8), pre)
    for flip, low, high in ((0.0, 0, 0), (0.5, 75, 125), (1.0, 200, 200)):
        for axis, cfg in ((-1, AugmentConfig(crop="none", flip=flip)),
                          (-2, AugmentConfig(crop="none", flip=0, vertical=flip))):  # fmt: skip
            views = [augment(data, cfg, pre, generator(1, i)) for i in range(200)]
            mirrored = sum(torch.equal(v, plain.flip(axis)) for v in views)
            assert low <= mirrored <= high and mirrored + sum(torch.equal(v, plain) for v in views) == 200


def test_pad_crop_reaches_every_shift() -> None:
    """Each of the nine pictures that torchvision's padding and cropping gives, and no other."""
    image, pre = picture(9, 7, 1), card((9, 7), 1)
    cfg = AugmentConfig(crop="pad", padding=1, flip=0)
    views = {augment(png(image), cfg, pre, generator(2, i)).numpy().tobytes() for i in range(120)}
    padded = F.pad(torch.from_numpy(image).permute(2, 0, 1), [1] * 4, fill=0)
    assert views == {padded[:, y : y + 9, x : x + 7].numpy().tobytes() for y in range(3) for x in range(3)}
    wide = AugmentConfig(crop="pad", padding=30, flip=0)
    assert all(augment(png(image), wide, pre, generator(i)).shape == (1, 9, 7) for i in range(30))


def test_crops_keep_to_scale_and_ratio() -> None:
    cfg = AugmentConfig(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    shares, ratios, places = [], [], []
    for i in range(400):
        top, left, h, w = crop_box(300, 400, cfg, numbers(3, i))
        assert 0 <= top <= 300 - h and 0 <= left <= 400 - w
        shares.append(h * w / 120_000)
        ratios.append(w / h)
        places += [top / (300 - h + 1), left / (400 - w + 1)]
    assert 0.19 < min(shares) < 0.25 and 0.55 < max(shares) < 0.61
    assert abs(np.corrcoef(places[::2], places[1::2])[0, 1]) < 0.15, "one does not follow from the other"
    assert 0.36 < np.mean(shares) < 0.4  # what is both large and wide fits less often
    assert 0.49 < min(ratios) < 0.6 and 1.7 < max(ratios) < 2.02 and abs(np.mean(np.log(ratios))) < 0.1
    assert abs(np.mean(places) - 0.5) < 0.05 and min(places) < 0.03 and max(places) > 0.97
    assert crop_box(1, 1000, cfg, numbers(0))[2:] == (1, 2)
    flat = [crop_box(300, 400, AugmentConfig(scale=(0.1, 0.2), ratio=(1.5, 2.0)), numbers(i)) for i in range(50)]
    assert all(1.47 < w / h < 2.03 for _, _, h, w in flat), "width over height"


def test_crops_are_drawn_like_torchvisions() -> None:
    """Areas, aspects and places of both, as far as two samples can tell; and of another range of areas not."""
    image, n = torch.zeros(3, 90, 150), 1500
    torch.manual_seed(0)
    theirs = [v2.RandomResizedCrop(1, scale=(0.2, 1.0)).make_params([image]) for _ in range(n)]
    rows = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in theirs], float)

    def features(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, h, w = boxes.T
        return [h * w, w / h, (top + h / 2) / 90, (left + w / 2) / 150]

    def agree(low: float) -> float:
        cfg = AugmentConfig(scale=(low, 1.0))
        ours = np.array([crop_box(90, 150, cfg, numbers(8, i)) for i in range(n)], float)
        pairs = zip(features(ours), features(rows), strict=True)
        return min(float(stats.ks_2samp(a, b).pvalue) for a, b in pairs)

    assert agree(0.2) > 0.01 and agree(0.3) < 1e-4


def test_grey_cards_take_every_policy() -> None:
    data, pre = png(picture(40, 40)), card((16, 16), 1)
    for i in range(40):
        cfg = replace(ALL, policy=("none", "randaugment", "trivial", "three")[i % 4])
        assert augment(data, cfg, pre, generator(i)).shape == (1, 16, 16)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**31), st.floats(0.01, 1), st.floats(0.3, 3))
def test_a_crop_lies_in_any_picture(height: int, width: int, seed: int, scale: float, ratio: float) -> None:
    cfg = AugmentConfig(scale=(scale, 1.0), ratio=(min(ratio, 1.0), max(ratio, 1.0)))
    top, left, h, w = crop_box(height, width, cfg, numbers(seed))
    assert 0 <= top and 0 <= left and h > 0 and w > 0 and top + h <= height and left + w <= width


MODES = [("bilinear", InterpolationMode.BILINEAR), ("bicubic", InterpolationMode.BICUBIC),
         ("nearest", InterpolationMode.NEAREST)]  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), MODES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("size", [(24, 24), (50, 17), (32, 40)])
def test_cutting_is_torchvisions_resized_crop(
    name: str, mode: InterpolationMode, channels: int, size: tuple[int, int]
) -> None:
    image = picture(61, 47, channels)
    ours = cut(image, (5, 3, 32, 40), card(size, channels, interpolation=name))
    whole = torch.from_numpy(image).permute(2, 0, 1)
    theirs = F.resized_crop(whole, 5, 3, 32, 40, list(size), interpolation=mode, antialias=True)
    assert ours.shape == (channels, *size) and ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= (1 if name != "nearest" else 0)
    shifted = F.resized_crop(whole, 5, 4, 32, 40, list(size), interpolation=mode, antialias=True)
    assert (ours.int() - shifted.int()).abs().max() > 1, "the comparison can fail"


@pytest.mark.parametrize("depth", ["uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_deep_pictures_are_cropped_at_full_depth(depth: str, channels: int) -> None:
    image = (picture(60, 50, channels).astype(np.uint16) * 257).astype(depth)
    pre = card((24, 30), channels, depth=depth)
    ours = cut(image, (3, 4, 50, 40), pre)
    plane = torch.from_numpy(image[3:53, 4:44].astype(np.float32)).permute(2, 0, 1)
    theirs = F.resize(plane, [24, 30], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert str(ours.dtype) == f"torch.{depth}"
    if depth == "uint16":
        theirs = theirs.clamp(0, 65535)
    assert (ours.float() - theirs).abs().max() <= (0.51 if depth == "uint16" else 0.05)
    edge = np.zeros((20, 20, channels), depth)
    edge[:, 10:] = 65535
    steep = cut(edge, (0, 0, 20, 20), pre).float()  # bicubic overshoots at edges
    assert depth == "float32" or (steep[:, :, :14].max() < 20_000 and steep[:, :, 16:].min() > 45_000)
    view = augment(npy(image), AugmentConfig(flip=1.0, vertical=0.5, blur=0.5), pre, generator(1))
    assert view.shape == (channels, 24, 30) and view.dtype == ours.dtype


def test_a_view_is_the_crop_that_was_drawn() -> None:
    """Written out: header, box, torchvision's resized crop and flips."""
    data, pre, cfg = photo(90, 120, turn=6), card((32, 24)), AugmentConfig(vertical=0.5)
    image = torch.from_numpy(decode(data)).permute(2, 0, 1)
    assert image.shape == (3, 120, 90), "upright"
    for i in range(30):
        draws = generator(i).random(4 + BOX_DRAWS).tolist()
        box = crop_box(120, 90, cfg, draws[4:])
        expected = F.resized_crop(image, *box, [32, 24], interpolation=InterpolationMode.BICUBIC, antialias=True)
        expected = F.hflip(expected) if draws[0] < 0.5 else expected
        expected = F.vflip(expected) if draws[1] < 0.5 else expected
        view = augment(data, cfg, pre, generator(i))
        assert (view.int() - expected.int()).abs().max() <= 1


def shift_of(shape: tuple[int, int], turn: int) -> float:
    """How far a scaled decoding moves the views, in pixels of the view: the mean change over the mean slope."""
    data, cfg = photo(*shape, turn=turn), AugmentConfig(scale=(0.5, 1.0), ratio=(1.0, 1.0))
    shifts = []
    for i in range(6):
        a, b = (augment(data, cfg, card((64, 64), decode=how), generator(i)).float() for how in ("full", "scaled"))
        shifts.append(float((a - b).abs().mean() / (a[:, :, 1:] - a[:, :, :-1]).abs().mean()))
    return float(np.mean(shifts))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("shape", [(800, 1000), (801, 1003), (1024, 640)])
def test_scaled_decoding_shows_the_same_crop(
    turn: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a fraction of a pixel of what was decoded: so the finer that is, the closer."""
    assert shift_of(shape, turn) < 0.5
    monkeypatch.setattr(module, "ENOUGH", 2)
    assert shift_of(shape, turn) < 0.2


def test_a_shift_of_part_of_a_pixel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: forgetting that the rows of a turned picture begin with what rounding up has added."""
    monkeypatch.setattr(module, "ENOUGH", 2)
    good = module.scaled_window
    monkeypatch.setattr(module, "scaled_window", lambda full, *rest: good(full._replace(turn=1), *rest))
    assert shift_of((801, 1003), 3) > 0.2


def test_scaled_decoding_is_as_small_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def watched(*args: object, **more: object) -> np.ndarray:
        image = decode(*args, **more)  # type: ignore[arg-type]
        shapes.append(image.shape[:2])
        return image

    monkeypatch.setattr(module, "decode", watched)
    whole = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    for size, policy in (((30, 30), "scaled"), ((60, 60), "scaled"), ((130, 130), "scaled"), ((30, 30), "full")):
        augment(photo(480, 480), whole, card(size, decode=policy), generator(0))
    assert shapes == [(60, 60), (60, 60), (240, 240), (480, 480)]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 9999), st.integers(0, 3), st.integers(1, 8))
def test_a_scaled_window_covers_the_box_and_keeps_the_view(
    height: int, width: int, seed: int, power: int, turn: int
) -> None:
    """For what a decoder may give back: 1, 1/2, 1/4 or 1/8, rounded up, no side below `least`."""
    box = crop_box(height, width, AugmentConfig(), numbers(seed))
    least = least_size((height, width), box, (16, 24))
    step = 2**power
    decoded = -(-height // step), -(-width // step)
    window = scaled_window(Header(height, width, turn, "JPEG", 3, 8, 1), decoded, box)
    top, left, h, w = window.box
    assert top >= 0 and left >= 0 and h >= 1 and w >= 1 and top + h <= decoded[0] and left + w <= decoded[1]
    if max(decoded) > 8:
        assert window.step == step
        for seen, wanted, length, limit in zip(window.seen, box, window.seen[2:] * 2, box[2:] * 2, strict=True):
            assert abs(seen - wanted) <= step and abs(length - limit) <= step
    if decoded[0] >= least[0] and decoded[1] >= least[1]:
        assert h >= 16 - 1 and w >= 24 - 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_picture_is_cut_where_it_was_drawn(turn: int) -> None:
    """A decoder that averages blocks of 4 as stored: each upright pixel that is seen belongs to the window."""
    stored = np.arange(26 * 19).reshape(26, 19, 1)
    blocks = np.full((7, 5, 1), -1, np.int64)
    for y in range(7):
        for x in range(5):
            blocks[y, x] = stored[4 * y, 4 * x, 0]  # known by its first pixel
    whole, small = upright(stored, turn), upright(blocks, turn)
    head = Header(*whole.shape[:2], turn, "JPEG", 3, 8, 1)
    window = scaled_window(head, small.shape, (3, 6, 13, 11))
    top, left, h, w = window.box
    y, x, height, width = window.seen
    assert window.step == 4
    for i in range(h):
        for k in range(w):
            number = int(small[top + i, left + k, 0])
            rows, columns = np.nonzero(whole[:, :, 0] == number)
            assert y + 4 * i <= rows[0] < y + 4 * i + 4 and x + 4 * k <= columns[0] < x + 4 * k + 4
    assert abs(y - 3) <= 2 and abs(x - 6) <= 2 and abs(y + height - 16) <= 2 and abs(x + width - 17) <= 2


def test_stacking_keeps_the_layout() -> None:
    data, pre = png(picture(40, 40)), card((16, 20))
    plain = [augment(data, AugmentConfig(), pre, generator(i)) for i in range(5)]
    batch = stacked(plain)
    assert torch.equal(batch, torch.stack(plain)) and batch.shape == (5, 3, 16, 20)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    coloured = [augment(data, ALL, pre, generator(i)) for i in range(5)]
    assert stacked(coloured).is_contiguous() and torch.equal(stacked(coloured), torch.stack(coloured))
    assert torch.equal(stacked([plain[0], coloured[0]]), torch.stack([plain[0], coloured[0]]))
    room: list[torch.Tensor] = []
    for views in (plain, coloured):
        held = stacked(views, lambda shape, kind: room.append(torch.empty(shape, dtype=kind)) or room[-1])
        assert held.data_ptr() == room[-1].data_ptr() and torch.equal(held, torch.stack(views))


@pytest.mark.parametrize("name", ["policy", "jitter", "grey", "solarise", "erase"])
@pytest.mark.parametrize(("channels", "depth"), [(5, "uint8"), (3, "uint16"), (1, "float32")])
def test_colours_that_are_not_defined_are_refused_aloud(name: str, channels: int, depth: str) -> None:
    value = {"policy": "trivial", "jitter": (0.4, 0.0, 0.0, 0.0)}.get(name, 0.5)
    cfg, pre = AugmentConfig(**{name: value}), card((8, 8), channels, depth=depth)
    fine = (name == "solarise" and depth == "uint8") or (name == "erase" and depth != "float32")
    data = npy(picture(20, 20, channels).astype(depth))
    if fine:
        refuse(cfg, pre)
        assert all(augment(data, cfg, pre, generator(i)).shape == (channels, 8, 8) for i in range(9))
        return
    with pytest.raises(BadInput, match=rf"^augment\.{name}[^\n]*$"):
        refuse(cfg, pre)
    with pytest.raises(BadInput, match=rf"^augment\.{name}"):
        augment(data, cfg, pre, generator(0))


def test_unreadable_bytes_are_named() -> None:
    for crop in ("resized", "pad", "none"):
        with pytest.raises(BadInput, match=r"^a/b\.jpg"):
            augment(b"<html>404</html>", AugmentConfig(crop=crop), card((8, 8)), generator(0), "a/b.jpg")


def test_boxes_cannot_follow_what_turns_a_picture() -> None:
    for policy in ("randaugment", "trivial"):
        with pytest.raises(BadInput, match="boxes"):
            augment_followed(png(picture(9, 9)), AugmentConfig(policy=policy), card((8, 8)), generator(0))


def test_generator_keys_do_not_run_together() -> None:
    keys = [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), ("123",), (0, 1, "a"), (0, 1, "b"), (1, 0, "a")]
    assert len({generator(*key).integers(2**62) for key in keys}) == len(keys)
    assert generator(7, 2, "caf\udce9").random() == generator(7, 2, "caf\udce9").random()
    assert generator(0, 1, "a").integers(2**31) == 441832018, "an old run would no longer be repeated"


BAD = [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}, {"vertical": -0.1},
       {"padding": -1}, {"operations": -1}, {"magnitude": 31.0}, {"deviation": -1.0}, {"magnitude": math.nan},
       {"jitter": (0.1, 0.1, 0.1, 0.6)}, {"jitter": (-0.1, 0.0, 0.0, 0.0)}, {"jittered": 2.0}, {"erase": 1.01},
       {"grey": math.nan}, {"blur": -1.0}, {"solarise": 7.0}, {"jitter": (math.inf, 0.0, 0.0, 0.0)}]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_impossible_augmentation_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"^augment[^\n]*$"):
        AugmentConfig(**bad)
