"""flowers128 from the real DeiT-tiny, so many minutes each: ours, timm's train script, transformers' Trainer.

4,317 pictures in 5 classes, 60 / 20 / 20 of each class by seed 0: the first part is learned from, the second may be
looked at while a recipe is chosen, the third is judged once, at the end of a run. Every program gets the same weights,
the same parts, as many threads and as many minutes; how many steps these are is measured just before, on the same
machine, so that each program's schedule ends with its time. One run after another, seed by seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import record
from contenders import example_pictures

SHARED = record.ROOT.parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "deit_tiny_patch16_224_lnq8.safetensors"
SHARES = (("train", 0.6), ("val", 0.8), ("test", 1.0))  # up to which share of a class each part goes
BAR = 88.0  # per cent of the test part, in 10 minutes
TRIED = 24  # steps by which the speed is measured


def split(tar: Path, root: Path, seed: int = 0) -> dict[str, int]:
    """root/PART/CLASS/NAME; how many pictures each part has."""
    classes: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(tar) as archive:
        archive.extractall(root / "all", filter="data")
    for path in sorted((root / "all").rglob("*.jpg")):
        classes[path.parent.name].append(path.name)
    drawn, counts = random.Random(seed), dict.fromkeys((part for part, _ in SHARES), 0)
    for name in sorted(classes):
        files, start = classes[name], 0
        drawn.shuffle(files)
        for part, share in SHARES:
            end = round(share * len(files))
            (root / part / name).mkdir(parents=True)
            for file in files[start:end]:
                (root / "all" / name / file).rename(root / part / name / file)
            counts[part] += end - start
            start = end
    return counts


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(root: Path, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """`tessella train` with nothing given but weights and steps; `tessella evaluate` on the test part."""
    from tessella.config import read_plain

    words = ["train", str(root / "photos"), "--weights", str(asked.weights), "--model", "deit_t16"]
    words += ["--seed", str(seed)]
    words += ["--folder", str(root / "runs"), "--train.evaluate_every", "100000", *shlex.split(asked.ours)]
    steps, speed = asked.steps, None
    if not steps:
        began = time.perf_counter()
        _tessella([*words, "--name", f"speed-{seed}", "--train.steps", str(TRIED), "--train.log_every", "4"], asked)
        whole = time.perf_counter() - began
        log = [json.loads(line) for line in (root / "runs" / f"speed-{seed}" / "log.jsonl").open()]
        speed = statistics.median([row["images/s"] for row in log if "images/s" in row][1:])
        batch = read_plain(root / "runs" / f"speed-{seed}" / "run.json")["run"]["train"]["batch"]
        around = max(0.0, whole - TRIED * batch / speed)  # start, the one evaluation, saving
        steps = int((60 * asked.minutes - around) * speed / batch)
    began = time.perf_counter()
    _tessella([*words, "--name", f"ours-{seed}", "--train.steps", str(steps)], asked)
    seconds = time.perf_counter() - began
    run = root / "runs" / f"ours-{seed}"
    told = json.loads(_tessella(["evaluate", str(run), str(root / "photos" / "test"), "--json"], asked))
    log = [json.loads(line) for line in (run / "log.jsonl").open()]
    held = [row["val/top1"] for row in log if "val/top1" in row]
    return {"test": told["top1"], "val": held[-1], "steps": steps, "seconds": seconds, "images_per_s": speed}


def _tessella(words: list[str], asked: argparse.Namespace) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tessella", *words], env=_environment(asked), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"tessella {words[0]} failed ({done.returncode})")
    return done.stdout


def _environment(asked: argparse.Namespace) -> dict[str, str]:
    paths = os.pathsep.join([str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": str(asked.threads), "PYTHONPATH": paths}


# -- theirs ------------------------------------------------------------------------------------------------------------


def peer(name: str, root: Path, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """In a process of its own, so that no program finds another's threads and caches."""
    words = [sys.executable, __file__, "--only", name, "--root", str(root), "--seeds", str(seed)]
    words += ["--minutes", str(asked.minutes), "--steps", str(asked.steps), "--weights", str(asked.weights)]
    done = subprocess.run(
        [*words, "--threads", str(asked.threads)], env=_environment(asked), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} failed ({done.returncode})")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def timm_script(root: Path, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """timm's train.py with `--model deit_tiny_patch16_224 --pretrained --pretrained-path W`. It is not in the wheel, so
    its steps are written out, from its factories and with its defaults: SGD with momentum 0.9, lr 0.1 for 256 pictures
    at batch 128, weight decay 2e-5, cosine by epochs after 5 epochs of warm-up from 1e-5, label smoothing 0.1, random
    crops of 8 to 100 %, colour jitter 0.4, fp32, 4 workers, no average of weights."""
    import timm
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.utils import random_seed

    def start() -> Any:
        random_seed(seed, 0)
        overlay = {"file": str(asked.weights), "num_classes": -1}  # -1: the head is made anew, as in train.py
        told = {"pretrained": True, "num_classes": 5, "pretrained_cfg_overlay": overlay}
        return timm.create_model("deit_tiny_patch16_224", **told)

    net = start()
    data = resolve_data_config({}, model=net)
    sets = {part: create_dataset("", root=str(root / "photos" / part)) for part, _ in SHARES}
    shared = {"input_size": data["input_size"], "batch_size": 128, "mean": data["mean"], "std": data["std"]}
    shared |= {"num_workers": 4, "device": torch.device("cpu"), "pin_memory": False, "use_prefetcher": False}
    train = create_loader(
        sets["train"], is_training=True, hflip=0.5, color_jitter=0.4, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3),
        interpolation="random", **shared,
    )  # fmt: skip
    each = _timm_epochs(net, train, 1, TRIED // 2) / (TRIED // 2 - 2) if not asked.steps else 1.0  # seconds a step
    epochs = round(60 * asked.minutes / (each * len(train))) if not asked.steps else 1
    net = start()
    seconds = _timm_epochs(net, train, max(1, epochs), asked.steps or None)
    judged = {
        part: create_loader(
            sets[part], is_training=False, crop_pct=data["crop_pct"], interpolation=data["interpolation"], **shared
        )
        for part in ("val", "test")
    }
    found = {part: _right(net, loader, net, 1 if asked.steps else None) for part, loader in judged.items()}
    return found | {"steps": epochs * len(train), "seconds": seconds, "images_per_s": 128 / each}


def _timm_epochs(net: Any, train: Any, epochs: int, most: int | None) -> float:
    """Seconds; with `most` only so many steps, of which the first two do not count."""
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    loss_of = LabelSmoothingCrossEntropy(smoothing=0.1)
    optimizer = create_optimizer_v2(net, opt="sgd", lr=0.1 * 128 / 256, weight_decay=2e-5, momentum=0.9)
    schedule, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=5, warmup_lr=1e-5, min_lr=0,
        updates_per_epoch=len(train),
    )  # fmt: skip
    began, step = time.perf_counter(), 0
    for epoch in range(epochs):
        net.train()
        for images, labels in train:
            loss = loss_of(net(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            optimizer.zero_grad()
            step += 1
            began = time.perf_counter() if most and step == 2 else began
            if step == most:
                return time.perf_counter() - began
        if schedule is not None:
            schedule.step(epoch + 1)
    return time.perf_counter() - began


def _right(says: Any, batches: Any, net: Any, most: int | None) -> float:
    """Of all batches, or of the first few where the way is tried out."""
    import torch

    net.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in itertools.islice(batches, most):
            right += int((says(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def transformers_trainer(root: Path, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """transformers' run_image_classification: its transforms and `Trainer` with TrainingArguments' defaults (AdamW, lr
    5e-5 falling to 0 in a line, batch 8, clip 1.0, fp32, pictures loaded in the same process); only the number of
    epochs follows from the minutes."""
    import torch
    from transformers import Trainer, TrainingArguments, ViTForImageClassification, set_seed

    folder = root / "transformers"
    if not folder.is_dir():
        _as_transformers(asked.weights, folder)
    parts = {part: root / "photos" / part for part, _ in SHARES}
    sets, collate = example_pictures(parts, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def learn(steps: int) -> tuple[Any, float]:
        set_seed(seed)
        net = ViTForImageClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
        told = TrainingArguments(
            output_dir=str(root / "trainer"), max_steps=steps, seed=seed, use_cpu=True, save_strategy="no",
            disable_tqdm=True, report_to="none", dataloader_pin_memory=False,
        )  # fmt: skip
        began = time.perf_counter()
        Trainer(model=net, args=told, train_dataset=sets["train"], data_collator=collate).train()
        return net, time.perf_counter() - began

    steps, each = asked.steps, None
    if not steps:
        each = (learn(3 * TRIED)[1] - learn(TRIED)[1]) / (2 * TRIED)
        steps = int(60 * asked.minutes / each)
    net, seconds = learn(steps)

    def says(images: Any) -> Any:
        return net(pixel_values=images).logits

    loaders = {part: torch.utils.data.DataLoader(sets[part], 32) for part in ("val", "test")}
    found = {part: _right(says, loader, net, 1 if asked.steps else None) for part, loader in loaders.items()}
    return found | {"steps": steps, "seconds": seconds, "images_per_s": each and 8 / each}


def _as_transformers(weights: Path, folder: Path) -> None:
    """The same weights in transformers' layout of names, as facebook/deit-tiny-patch16-224 is stored."""
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig

    held, out = load_file(weights), {}
    whole = {"cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings"}
    parts = {"patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm"}
    inside = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    inside |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for name, tensor in held.items():
        stem, _, kind = name.rpartition(".")
        pieces = stem.split(".", 2)
        if name in whole:
            out[whole[name]] = tensor
        elif stem in parts or stem == "head":
            out[f"{parts.get(stem, 'classifier')}.{kind}"] = tensor
        elif pieces[2] == "attn.qkv":
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"vit.encoder.layer.{pieces[1]}.attention.attention.{part}.{kind}"] = piece.contiguous()
        else:
            out[f"vit.encoder.layer.{pieces[1]}.{inside[pieces[2]]}.{kind}"] = tensor
    cfg = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=1000)
    cfg.architectures = ["ViTForImageClassification"]
    cfg.save_pretrained(folder)
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})


PEERS = {"timm": timm_script, "transformers": transformers_trainer}


def parse() -> argparse.Namespace:
    parser = record.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--who", nargs="+", default=["ours", *PEERS], choices=["ours", *PEERS])
    parser.add_argument("--ours", default="", help="further words for `tessella train`, in one string")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="so many steps instead of the minutes: to try it out")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--only", choices=[*PEERS], help=argparse.SUPPRESS)  # one peer, in this process
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = parse()
    if asked.only:
        import torch

        torch.set_num_threads(asked.threads)
        print(json.dumps(PEERS[asked.only](asked.root, asked, asked.seeds[0])))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        counts = split(SHARED / "flowers128" / "flowers128.tar", root / "photos")
        (root / "photos" / "all").rename(root / "rest")
        for seed in asked.seeds:
            for who in asked.who:
                found = ours(root, asked, seed) if who == "ours" else peer(who, root, asked, seed)
                rows.append({"who": who, "seed": seed, **found})
                print(json.dumps(rows[-1]), flush=True)
    record.table(list(rows[0]), [[row[key] for key in rows[0]] for row in rows])
    mean = {who: 100 * statistics.mean(r["test"] for r in rows if r["who"] == who) for who in asked.who}
    judged = [
        record.verdict(f"{who}, test, per cent", mean["ours"], mean[who], True)
        for who in PEERS
        if {who, "ours"} <= mean.keys()
    ]
    if "ours" in mean:
        judged.append(record.verdict("ours, test, per cent", mean["ours"], BAR, True))
    record.show(judged)
    told = {"pictures": counts, "minutes": asked.minutes, "rows": rows, "mean": mean, "verdicts": judged}
    record.keep(asked, "flowers", told)


if __name__ == "__main__":
    main()
