"""Self-distillation without labels (DINO, arXiv 2104.14294) on a folder of pictures, all of it in one file.

    python examples/dino.py photos/ --steps 2000

No import from the package. Three steps of this script are three steps of `tessella train --method dino` (tests/
test_examples.py). Of every view a student says what its own running average, the teacher, says of another, large one.

B samples  G large views  V all views, the large ones first  N pictures  D width  E bottleneck  K prototypes  A heads
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

IMAGE, SMALL, PATCH = 32, 16, 4  # pixels: of large views, small views, patches
WIDTH, DEPTH, HEADS = 192, 6, 3
LARGE, LOCAL = 2, 6  # views of each sample
HIDDEN, BOTTLENECK, PROTOTYPES = 512, 128, 1024  # of the projection head
STUDENT, TEACHER, TEACHER_START, RISES = 0.1, 0.07, 0.04, 0.3  # temperatures; share of the run in which it rises
MOMENTUM, CENTRE, FROZEN = 0.996, 0.9, 0.01  # of teacher and centre; share of the run with fixed prototypes
GRID = IMAGE // PATCH
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, WARMUP, DECAY, BETAS, CLIP = 1e-3, 50, 0.05, (0.9, 0.95), 1.0


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x_NTD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_NTD).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # each (N, A, T, D / A)
        x: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, eps=1e-6), Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x_NTD: Tensor) -> Tensor:
        x = x_NTD + self.attn(self.norm1(x_NTD))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class ViT(nn.Module):
    """Pictures of any size in whole patches to their class tokens (N, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + GRID**2, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.patch_embed["proj"](images_NCHW)  # (N, D, h, w)
        places = self.pos_embed[:, 1:].mT.unflatten(2, (GRID, GRID))
        if x.shape[-2:] != places.shape[-2:]:
            places = F.interpolate(places, x.shape[-2:], mode="bicubic", antialias=True)
        x = (x + places).flatten(2).mT
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        out: Tensor = self.norm(self.blocks(x))[:, 0]
        return out


class Head(nn.Module):
    """Features (N, D) to the cosines of what a bottleneck lets through with the prototypes (N, K)."""

    def __init__(self) -> None:
        super().__init__()
        wide = nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU()
        self.mlp = nn.Sequential(*wide, nn.Linear(HIDDEN, BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, BOTTLENECK) * BOTTLENECK**-0.5)

    def forward(self, features_ND: Tensor) -> Tensor:
        return F.linear(F.normalize(self.mlp(features_ND), dim=1), F.normalize(self.prototypes, dim=1))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.head = nn.ModuleDict({"backbone": ViT()}), Head()
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(part.weight, std=(2 / (len(part.weight) + part.weight[0].numel())) ** 0.5)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, views_BVCHW: Tensor) -> Tensor:
        scores: Tensor = self.head(self.network["backbone"](views_BVCHW.flatten(0, 1)))
        return scores.unflatten(0, views_BVCHW.shape[:2])


class DINO(nn.Module):
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = Branch(), Branch().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.register_buffer("centre", torch.zeros(PROTOTYPES))

    def forward(self, large: Tensor, local: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """The loss, and the mean of the teacher's scores (K,)."""
        sharp = TEACHER_START + (TEACHER - TEACHER_START) * min(1.0, progress / RISES)
        with torch.no_grad():
            taught_BGK = self.teacher(large)
            target_BGK = ((taught_BGK - self.centre) / sharp).softmax(-1)
        said_BVK = torch.cat([self.student(large), self.student(local)], dim=1)
        cross_BGV = -target_BGK @ (said_BVK / STUDENT).log_softmax(-1).mT
        others_GV = ~torch.eye(LARGE, LARGE + LOCAL, dtype=torch.bool)
        return cross_BGV.masked_select(others_GV).mean(), taught_BGK.mean((0, 1))

    @torch.no_grad()
    def follow(self, scores_K: Tensor, progress: float) -> None:
        keeps = 1 - (1 - MOMENTUM) * (1 + math.cos(math.pi * progress)) / 2
        for ours, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            theirs.lerp_(ours, 1 - keeps)
        self.centre.lerp_(scores_K, 1 - CENTRE)


def optimizer_of(model: DINO) -> torch.optim.Optimizer:
    named = list(model.student.named_parameters())
    free = {id(p) for name, p in named if p.ndim < 2 or name.endswith(("cls_token", "pos_embed"))}  # do not decay
    groups = [[p for _, p in named if id(p) not in free], [p for _, p in named if id(p) in free]]
    decays = zip(groups, (DECAY, 0.0), strict=True)
    return torch.optim.AdamW([{"params": g, "weight_decay": d} for g, d in decays], lr=LR, betas=BETAS)


def step_of(
    model: DINO, optimizer: torch.optim.Optimizer, large: Tensor, local: Tensor, step: int, steps: int
) -> float:
    progress = step / steps
    down = 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))
    for group in optimizer.param_groups:
        group["lr"] = LR * ((step + 1) / WARMUP if step < WARMUP else down)
    loss, scores_K = model(large, local, progress)
    optimizer.zero_grad()
    loss.backward()
    if progress < FROZEN:
        model.student.head.prototypes.grad = None
    nn.utils.clip_grad_norm_(model.student.parameters(), CLIP)
    optimizer.step()
    model.follow(scores_K, progress)
    return float(loss.detach())


def view(picture: Image.Image, size: int, scale: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A random crop, mirrored or not, brighter or darker, sometimes grey; normalised."""
    side = min(picture.size) * rng.uniform(*scale) ** 0.5
    left, top = (rng.uniform(0, n - side) for n in picture.size)
    crop = picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255 * rng.uniform(0.6, 1.4)
    pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1) if rng.random() < 0.2 else pixels
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (pixels.flip(-1) if rng.random() < 0.5 else pixels).clamp(0, 1).sub(mean).div(std)


def batches(folder: str, size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    while True:
        pictures = [Image.open(files[i]).convert("RGB") for i in rng.integers(len(files), size=size)]
        large = [torch.stack([view(p, IMAGE, (0.4, 1.0), rng) for _ in range(LARGE)]) for p in pictures]
        local = [torch.stack([view(p, SMALL, (0.05, 0.4), rng) for _ in range(LOCAL)]) for p in pictures]
        yield torch.stack(large), torch.stack(local)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of .jpg and .png")
    for name, value in (("--steps", 1000), ("--batch", 64)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--out", default="dino.safetensors", help="the teacher's network, by timm's names")
    asked = parser.parse_args()
    torch.manual_seed(0)
    model = DINO()
    optimizer, stream = optimizer_of(model), batches(asked.folder, asked.batch, np.random.default_rng(0))
    for step in range(asked.steps):
        loss = step_of(model, optimizer, *next(stream), step, asked.steps)
        if step % 20 == 0 or step + 1 == asked.steps:
            print(f"step {step + 1}/{asked.steps} · loss {loss:.4f}", flush=True)
    save_file({n: t.contiguous() for n, t in model.teacher.network["backbone"].state_dict().items()}, asked.out)


if __name__ == "__main__":
    main()
