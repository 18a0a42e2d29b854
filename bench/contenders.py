"""The programs that bench/step.py compares, each the real loop of its project, run one block of steps at a time.

A contender calls `gate.before()` ahead of every step and `gate.after()` behind it. The gate starts the clock at the
first step of a block and stops it at the last, and sleeps in between, so that one process works at a time.

What each is given: the same model size, fixed random batches that lie ready on the device (so no loader is measured),
and otherwise the defaults of its project. Ours gets bytes and normalises them in the step; the others get ready floats.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

CLASSES, BATCHES = 1000, 4


@dataclass(frozen=True)
class Options:
    model: str = "vit_s16"
    size: int = 224  # pixels
    batch: int = 16
    device: str = "cpu"
    warmup: int = 3  # steps, never timed
    threads: int = 1


class Gate:
    """Between the steps: waits for orders, times blocks, watches memory."""

    def __init__(self, options: Options, orders: TextIO, answers: TextIO) -> None:
        self.options, self.orders, self.answers = options, orders, answers
        self.left, self.began, self.length = options.warmup, 0.0, options.warmup
        self.parameters = 0

    def before(self) -> None:
        if self.left == self.length:
            self._synchronise()
            self.began = time.perf_counter()

    def after(self) -> None:
        self.left -= 1
        if self.left == 0:
            self._synchronise()
            seconds = (time.perf_counter() - self.began) / self.length
            self.tell({"seconds": seconds, "parameters": self.parameters, **self._memory()})
            order = self.orders.readline().split()
            if not order:
                self._leave()
            if order[0] == "fresh":  # after the warm-up: from here on the steady peak counts
                forget_peak(self.options.device)
            self.left = self.length = int(order[1])

    def tell(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.answers, flush=True)

    def _leave(self) -> NoReturn:
        sys.stderr.flush()
        os._exit(0)  # the loops that we borrow would go on, or save something

    def _synchronise(self) -> None:
        if self.options.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()

    def _memory(self) -> dict[str, int]:
        life = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.options.device.startswith("cuda"):
            import torch

            return {"peak": torch.cuda.max_memory_allocated(), "life": life}
        return {"peak": high_water(), "life": life}


def high_water() -> int:
    """Bytes: the most this process held since `forget_peak`, where Linux tells."""
    try:
        with open("/proc/self/status") as lines:
            found = next(line for line in lines if line.startswith("VmHWM"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: str) -> None:
    """Loading and compiling are over; what counts now is the training itself."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        print("the peak cannot be reset here: it is that of the whole process", file=sys.stderr)


# -- ours ------------------------------------------------------------------------------------------------------------


def network(options: Options) -> Any:
    """Our configuration of the wanted size; the others are built from its numbers."""
    from tessella.models.presets import classifier

    cfg = classifier(options.model, CLASSES)
    return replace(cfg, backbone=replace(cfg.backbone, image_size=options.size))


def ours(options: Options, gate: Gate, compiled: bool = False) -> None:
    """`tessella.training.train` with TrainConfig's defaults: bf16 where the chip has it, clipping, fused AdamW."""
    import torch

    from tessella.card import Preprocess
    from tessella.data.pixels.finish import Finish
    from tessella.models.classifier import Classifier
    from tessella.objectives.classify import Classify, ClassifyConfig
    from tessella.training import Job, TrainConfig, train

    objective = Classify(ClassifyConfig(), Classifier(network(options)))
    gate.parameters = sum(p.numel() for p in objective.parameters())
    shape = (BATCHES, options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(options.device)
    labels = torch.randint(0, CLASSES, (BATCHES, options.batch)).to(options.device)
    names = [str(i) for i in range(options.batch)]

    def batches(start: int) -> Iterator[dict[str, Any]]:
        """What the trainer does between two batches is its whole step, its report too."""
        step = start
        while True:
            gate.before()
            yield {"ids": names, "image": images[step % BATCHES], "label": labels[step % BATCHES]}
            gate.after()
            step += 1

    finish = Finish(Preprocess(size=(options.size,) * 2, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    cfg = TrainConfig(steps=10**6, batch=options.batch, device=options.device, compile="on" if compiled else "auto")
    train(cfg, objective, batches, Job(finish=finish, quiet=True))


def ours_compiled(options: Options, gate: Gate) -> None:
    """The same with compile = "on", which `tessella train` chooses by itself for long runs."""
    ours(options, gate, compiled=True)


# -- theirs ----------------------------------------------------------------------------------------------------------


def ready(options: Options) -> tuple[Any, Any]:
    """Normalised pictures (BATCHES, B, 3, H, W) and labels (BATCHES, B)."""
    import torch

    images = torch.randn(BATCHES, options.batch, 3, options.size, options.size, device=options.device)
    return images, torch.randint(0, CLASSES, (BATCHES, options.batch), device=options.device)


def example_pictures(
    folders: Mapping[str, Path],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    scale: tuple[float, float] = (0.08, 1.0),
) -> tuple[dict[str, Any], Callable[[list[Any]], dict[str, Any]]]:
    """The sets and the collate of transformers' run_image_classification: random crops and flips of `train`, the middle
    of all other parts."""
    import torch
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder

    last = [v1.ToTensor(), v1.Normalize(mean, std)]
    seen = v1.Compose([v1.RandomResizedCrop(size, scale=scale), v1.RandomHorizontalFlip(), *last])
    judged = v1.Compose([v1.Resize(size), v1.CenterCrop(size), *last])

    def collate(samples: list[Any]) -> dict[str, Any]:
        return {"pixel_values": torch.stack([x for x, _ in samples]), "labels": torch.tensor([y for _, y in samples])}

    return {p: ImageFolder(str(at), seen if p == "train" else judged) for p, at in folders.items()}, collate


def transformers(options: Options, gate: Gate) -> None:
    """transformers' Trainer with its own loop and TrainingArguments' defaults (fp32, fused AdamW, clip 1.0)."""
    import tempfile

    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

    b = network(options).backbone
    cfg = ViTConfig(
        hidden_size=b.width, num_hidden_layers=b.depth, num_attention_heads=b.heads, intermediate_size=b.hidden,
        image_size=options.size, patch_size=b.patch_size, num_labels=CLASSES,
    )  # fmt: skip
    model = ViTForImageClassification(cfg)
    gate.parameters = sum(p.numel() for p in model.parameters())
    images, labels = ready(options)

    class Nothing(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 10**7

        def __getitem__(self, index: int) -> int:
            return index

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gate.before()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gate.after()

    def collate(indices: list[int]) -> dict[str, Any]:
        i = indices[0] % BATCHES
        return {"pixel_values": images[i], "labels": labels[i]}

    on_cpu = options.device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        told = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=options.batch, save_strategy="no", disable_tqdm=True,
            use_cpu=on_cpu, dataloader_pin_memory=on_cpu,  # pinning is for batches that are not there yet
        )  # fmt: skip
        Trainer(model=model, args=told, train_dataset=Nothing(), data_collator=collate, callbacks=[Watch()]).train()


TIMM = {"vit_t16": "vit_tiny_patch16_224", "vit_s16": "vit_small_patch16_224", "vit_b16": "vit_base_patch16_224"} | {
    "vit_b32": "vit_base_patch32_224", "vit_l16": "vit_large_patch16_224", "vit_h14": "vit_huge_patch14_224",
}  # fmt: skip


def timm_model(options: Options, gate: Gate) -> Any:
    import timm

    if options.model not in TIMM:
        raise ValueError(f"{options.model} has no peer in timm; choose one of {', '.join(TIMM)}")
    model = timm.create_model(TIMM[options.model], num_classes=CLASSES, img_size=options.size)
    gate.parameters = sum(p.numel() for p in model.parameters())
    return model.to(options.device).train()


def timm_script(options: Options, gate: Gate) -> None:
    """The step of timm's train.py with only model and batch size given. It is not in the wheel, so it is written out.

    Its defaults, by its arguments: --opt sgd, --momentum 0.9, --weight-decay 2e-5, --lr-base 0.1 for 256 samples,
    --smoothing 0.1 without mixup (so LabelSmoothingCrossEntropy), no --amp (fp32), no --clip-grad, no --channels-last,
    no --torchcompile, no --model-ema. `train_one_epoch` reads the loss after every update (`loss.item()`).
    """
    import torch
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.task import ClassificationTask

    if options.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    model = timm_model(options, gate)
    loss_of = LabelSmoothingCrossEntropy(smoothing=0.1)
    task = ClassificationTask(model, loss_of, device=torch.device(options.device), verbose=False)
    lr = 0.1 * options.batch / 256
    optimizer = create_optimizer_v2(model, opt="sgd", lr=lr, weight_decay=2e-5, momentum=0.9)
    images, labels = ready(options)
    optimizer.zero_grad()
    step = 0
    while True:
        gate.before()
        loss = task(images[step % BATCHES], labels[step % BATCHES])["loss"]
        loss.backward()
        optimizer.step()
        loss.item()
        optimizer.zero_grad()
        gate.after()
        step += 1


def timm_compiled(options: Options, gate: Gate) -> None:
    """The fastest that timm's model gets: torch.compile, bf16 autocast, fused AdamW, no clipping, nothing read."""
    import torch
    import torch.nn.functional as F

    model = timm_model(options, gate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    fast = torch.compile(model)
    images, labels = ready(options)
    step = 0
    while True:
        gate.before()
        with torch.autocast(torch.device(options.device).type, torch.bfloat16):
            loss = F.cross_entropy(fast(images[step % BATCHES]), labels[step % BATCHES], label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        gate.after()
        step += 1


CONTENDERS: dict[str, Callable[[Options, Gate], None]] = {
    "ours": ours,
    "ours_compiled": ours_compiled,
    "transformers": transformers,
    "timm_script": timm_script,
    "timm_compiled": timm_compiled,
}


def main(known: dict[str, Callable[[Options, Gate], None]] = CONTENDERS) -> None:
    """One contender in this process: `contenders.py NAME OPTIONS`, orders on stdin, answers on stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    options = Options(**json.loads(sys.argv[2]))
    gate = Gate(options, sys.stdin, answers)
    try:
        import torch

        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        known[sys.argv[1]](options, gate)
    except ImportError as error:
        gate.tell({"absent": f"{error}"})


if __name__ == "__main__":
    main()
