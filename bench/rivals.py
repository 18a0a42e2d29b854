"""Accuracy at equal time: `tessella train`, timm's training script, transformers' Trainer, one after the other.

Each gets the same pictures, the same minutes of wall clock (from the start of its command to its end, with loading
and evaluation) and the same cores. How many epochs fit is measured first, by a run of two.
Peers run twice: with the defaults that they document, and as somebody would start them who knows ViTs (AdamW at 1e-3,
warm-up, bf16); ours is compared with the better of the two. All learn
from nothing; bench/flowers.py is the fine-tuning.

timm's script is not in its package: `git clone` its repository at the version that is installed, and give
--timm-script. transformers' example script is its Trainer with torchvision's transforms, which `transformers_child`
builds with the same settings, from the same folder.

A day of measuring need not be one: the result is written after every run, and with `--go-on` the seeds that it lacks
are added to it, with the epochs that fitted before. Each run carries its own commit and the load it met.

Beside them, and not among the rivals, the ResNet-20 of arXiv 1512.03385 (41 M multiply-adds), with all that is known
to help it: what a convolution would have made of the same minutes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import record
from contenders import example_pictures


@dataclass(frozen=True)
class Task:
    """What every contender is given."""

    data: str  # a folder with train/ and test/, class folders in each
    folder: str  # of this run
    size: int  # pixels
    epochs: int
    seed: int
    width: int = 128  # of the rivals' ViT; so it multiplies 47 M times for a picture, ours 44 M
    depth: int = 5
    heads: int = 4
    mlp_ratio: float = 2.0
    patch: int = 4
    tuned: bool = False
    ours: tuple[str, ...] = ()  # options of `tessella train`
    timm_script: str = ""


# -- the contenders: a command, and how its top-1 (per cent, of the last epoch) is read from what it leaves -----------


def tessella(t: Task) -> list[str]:
    where = ["--folder", t.folder, "--name", "run", "--train.seed", str(t.seed)]
    return [sys.executable, "-m", "tessella", "train", t.data, "--epochs", str(t.epochs), *where, *t.ours]


def tessella_top1(t: Task) -> float:
    rows = [json.loads(line) for line in (Path(t.folder) / "run/log.jsonl").read_text().splitlines()]
    return 100 * float([row["val/top1"] for row in rows if "val/top1" in row][-1])


def timm(t: Task) -> list[str]:
    model = ["--model", "vit_tiny_patch16_224", "--img-size", str(t.size)]
    shape = {"embed_dim": t.width, "depth": t.depth, "num_heads": t.heads, "mlp_ratio": t.mlp_ratio}
    shape |= {"patch_size": t.patch, "img_size": t.size}
    model += ["--model-kwargs", *(f"{k}={v}" for k, v in shape.items())]
    knowing = ["--opt", "adamw", "--lr", "1e-3", "--weight-decay", "0.05", "--amp", "--amp-dtype", "bfloat16"]
    knowing += ["--sched-on-updates", "--warmup-epochs", "1", "--scale", "0.35", "1.0"]
    classes = str(sum(1 for p in (Path(t.data) / "train").iterdir() if p.is_dir()))
    place = ["--train-split", "train", "--val-split", "test", "--num-classes", classes, "--device", "cpu"]
    kept = ["--output", t.folder, "--experiment", "run", "--seed", str(t.seed), "--workers", "2"]
    script = [sys.executable, t.timm_script, "--data-dir", t.data, *place, *model, *kept, "--epochs", str(t.epochs)]
    return [*script, "--checkpoint-hist", "1", *(knowing if t.tuned else [])]


def timm_top1(t: Task) -> float:
    with (Path(t.folder) / "run/summary.csv").open() as file:
        return float([row["eval_top1"] for row in csv.DictReader(file)][-1])


def transformers(t: Task) -> list[str]:
    return [sys.executable, __file__, "--child", "transformers", json.dumps(asdict(t))]


def resnet(t: Task) -> list[str]:
    return [sys.executable, __file__, "--child", "resnet", json.dumps(asdict(t))]


def child_top1(t: Task) -> float:
    return 100 * float(json.loads((Path(t.folder) / "result.json").read_text())["accuracy"])


CONTENDERS: dict[str, tuple[Callable[[Task], list[str]], Callable[[Task], float], bool]] = {
    "tessella": (tessella, tessella_top1, False),
    "timm, its defaults": (timm, timm_top1, False),
    "timm, for ViTs": (timm, timm_top1, True),
    "transformers, its defaults": (transformers, child_top1, False),
    "transformers, for ViTs": (transformers, child_top1, True),
    "ResNet-20": (resnet, child_top1, True),
}
BESIDE = ("tessella", "ResNet-20")  # what is not a rival


def transformers_child(t: Task) -> None:
    """As its example run_image_classification does: random resized crops and flips, Trainer, TrainingArguments."""
    import torch
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    folders = {part: Path(t.data) / part for part in ("train", "test")}
    scale = (0.35, 1.0) if t.tuned else (0.08, 1.0)
    sets, collate = example_pictures(folders, t.size, [0.5] * 3, [0.5] * 3, scale)

    def accuracy(found: Any) -> dict[str, float]:
        return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}

    shape: dict[str, Any] = {"hidden_size": t.width, "num_hidden_layers": t.depth, "num_attention_heads": t.heads}
    shape |= {"intermediate_size": int(t.width * t.mlp_ratio), "patch_size": t.patch}
    cfg = ViTConfig(image_size=t.size, num_labels=len(sets["train"].classes), **shape)
    torch.manual_seed(t.seed)
    model = ViTForImageClassification(cfg)
    args: dict[str, Any] = {"num_train_epochs": t.epochs, "seed": t.seed, "output_dir": t.folder, "use_cpu": True}
    args |= {"save_strategy": "no", "eval_strategy": "epoch", "report_to": [], "dataloader_num_workers": 2}
    if t.tuned:
        args |= {"per_device_train_batch_size": 128, "per_device_eval_batch_size": 128}
        args |= {"learning_rate": 1e-3, "weight_decay": 0.05, "warmup_steps": 0.05, "bf16": True}
        args |= {"label_smoothing_factor": 0.1, "lr_scheduler_type": "cosine"}
    told = TrainingArguments(**args)
    trainer = Trainer(model, told, collate, sets["train"], sets["test"], compute_metrics=accuracy)
    trainer.train()
    found = [row["eval_accuracy"] for row in trainer.state.log_history if "eval_accuracy" in row]
    (Path(t.folder) / "result.json").write_text(json.dumps({"accuracy": found[-1]}))


def resnet_child(t: Task) -> None:
    """All pictures in memory, crops and flips of whole batches, bf16, channels last; Nesterov's momentum, lr 0.1 for
    128 pictures, decay 5e-4, a warm-up of a twentieth and a cosine, label smoothing 0.1."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(t.seed)
    (images, labels), judged = (_in_memory(Path(t.data) / part) for part in ("train", "test"))
    net = _resnet20(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = t.epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, steps, pct_start=0.05, cycle_momentum=False, div_factor=25, final_div_factor=1e4
    )
    for _ in range(t.epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - 127, 128):
            at = order[start : start + 128]
            crops = torch.stack([_crop(images[i]) for i in at.tolist()])
            crops = torch.where(torch.rand(128, 1, 1, 1) < 0.5, crops.flip(3), crops)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(_floats(crops)), labels[at], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        said = torch.cat([net(_floats(part[:, :, 4:-4, 4:-4])).argmax(1) for part in judged[0].split(500)])
    accuracy = float((said == judged[1]).float().mean())
    (Path(t.folder) / "result.json").write_text(json.dumps({"accuracy": accuracy}))


def _in_memory(folder: Path) -> tuple[Any, Any]:
    """Bytes (N, 3, H + 8, W + 8), a border of 4 pixels around each, and labels."""
    import torch
    import torch.nn.functional as F
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    found = ImageFolder(str(folder), pil_to_tensor)
    images = torch.stack([image for image, _ in found])
    return F.pad(images, (4, 4, 4, 4)), torch.tensor(found.targets)


def _crop(image: Any) -> Any:
    import torch

    top, left = torch.randint(0, 9, (2,)).tolist()
    return image[:, top : top + image.shape[1] - 8, left : left + image.shape[2] - 8]


def _floats(images: Any) -> Any:
    import torch

    return ((images.float() - 122.0) / 63.0).contiguous(memory_format=torch.channels_last)


def _resnet20(classes: int) -> Any:
    """Three stages of three blocks, 16, 32 and 64 channels wide."""
    from torch import nn

    def conv(inside: int, out: int, side: int, stride: int) -> Any:
        layer = nn.Conv2d(inside, out, side, stride, side // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(out))

    class Block(nn.Module):
        def __init__(self, inside: int, out: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(inside, out, 3, stride), nn.ReLU(), conv(out, out, 3, 1))
            self.short = nn.Identity() if inside == out else conv(inside, out, 1, stride)

        def forward(self, x: Any) -> Any:
            return (self.body(x) + self.short(x)).relu()

    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(conv(3, 16, 3, 1), nn.ReLU(), *blocks, *end)


CHILDREN = {"transformers": transformers_child, "resnet": resnet_child}


# -- the race ----------------------------------------------------------------------------------------------------------


def run(name: str, task: Task) -> tuple[float, float]:
    """(seconds, top-1 in per cent)."""
    command, top1, tuned = CONTENDERS[name]
    Path(task.folder).mkdir(parents=True)
    task = replace(task, tuned=tuned)
    began = time.perf_counter()
    done = subprocess.run(command(task), capture_output=True, text=True, env=os.environ | {"WANDB_MODE": "offline"})
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, top1(task)


def epochs_that_fit(name: str, task: Task, minutes: float) -> int:
    """By a run of two. (The difference of a run of one and a run of two was tried: on a machine whose speed wanders it
    said 769 s an epoch, and -519 s beside them.)"""
    each = run(name, task)[0] / 2
    fit = max(1, int(60 * minutes / each))
    print(f"{name}: {each:.0f} s an epoch, its share of the start included: {fit} in {minutes:g} minutes", flush=True)
    return fit


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("data", nargs="?", help="a folder with train/ and test/, class folders in each")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=32, help="pixels (default: CIFAR's)")
    parser.add_argument("--timm-script", default="", help="train.py of timm's repository")
    parser.add_argument("--ours", default="--recipe compact", help="options of `tessella train`")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--go-on", action="store_true", help="add to the result that is there")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return CHILDREN[asked.child[0]](Task(**json.loads(asked.child[1])))
    if not asked.data or not (Path(asked.data) / "train").is_dir() or not (Path(asked.data) / "test").is_dir():
        parser.error("give a folder with train/ and test/, class folders in each")
    if any(n.startswith("timm") for n in asked.only) and not Path(asked.timm_script).is_file():
        parser.error("give --timm-script, the train.py of timm's repository, or leave timm out with --only")
    rows = _kept(asked) if asked.go_on else []
    with tempfile.TemporaryDirectory() as temporary:
        start = Task(
            data=str(Path(asked.data).resolve()),
            folder=temporary,
            size=asked.size,
            epochs=1,
            seed=0,
            ours=tuple(asked.ours.split()),
            timm_script=asked.timm_script,
        )
        for name in asked.only:
            at = f"{temporary}/{name.replace(' ', '-').replace(',', '')}"
            seeds = [seed for seed in asked.seeds if (name, seed) not in {(r["contender"], r["seed"]) for r in rows}]
            known = [row["epochs"] for row in rows if row["contender"] == name]
            epochs = known[0] if known else 0
            for seed in seeds:
                epochs = epochs or epochs_that_fit(name, replace(start, folder=f"{at}-pilot", epochs=2), asked.minutes)
                task = replace(start, folder=f"{at}-{seed}", epochs=epochs, seed=seed)
                seconds, top1 = run(name, task)
                met = {"commit": record.commit(), "load": os.getloadavg()[0]}
                rows.append(
                    {"contender": name, "seed": seed, "epochs": epochs, "seconds": seconds, "top1": top1, **met}
                )
                print(rows[-1], flush=True)
                _keep(asked, rows)
    _keep(asked, rows, aloud=True)


def _kept(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs of the file that is to be gone on with."""
    path = asked.out / f"{asked.name or 'rivals'}.json"
    told = json.loads(path.read_text())["figures"]
    if told["minutes"] != asked.minutes:
        raise SystemExit(f"{path} holds runs of {told['minutes']:g} minutes; say --minutes {told['minutes']:g}")
    rows: list[dict[str, Any]] = told["rows"]
    return rows


def _keep(asked: argparse.Namespace, rows: list[dict[str, Any]], aloud: bool = False) -> None:
    of = {name: [row for row in rows if row["contender"] == name] for name in CONTENDERS}
    of = {name: found for name, found in of.items() if found}
    middle = {name: median(row["top1"] for row in found) for name, found in of.items()}
    figures: dict[str, Any] = {"minutes": asked.minutes, "rows": rows, "median": middle}
    rivals = [value for name, value in middle.items() if name not in BESIDE]
    if "tessella" in middle and rivals:
        figures["verdicts"] = [record.verdict("top-1 above the best rival", middle["tessella"], max(rivals), True)]
    if aloud:
        record.table(["contender", "top-1 %, median", "all", "epochs", "seconds at most"], [
            [name, middle[name], " ".join(f"{row['top1']:.2f}" for row in found), found[0]["epochs"],
             max(row["seconds"] for row in found)]
            for name, found in of.items()
        ])  # fmt: skip
        record.show(figures.get("verdicts", []))
    record.keep(asked, "rivals", figures)


if __name__ == "__main__":
    main()
