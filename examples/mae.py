"""Masked autoencoding (MAE, arXiv 2111.06377) on a folder of pictures, all of it in one file.

    python examples/mae.py photos/ --steps 2000

No import from the package: torch, torchvision, numpy, Pillow, safetensors. Parameters have the names that
`tessella train --method mae` gives them, and three steps of this script are three steps of the library
(tests/test_examples.py): what it leaves opens with `tessella train labelled/ --weights mae.safetensors`, given the
sizes below as --model.

B pictures  C channels  N patches  n patches that are seen  D width  E width of the decoder  A heads  K head size
O = p * p * C numbers of one patch: row, column, channel
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
from torch import Tensor, nn

IMAGE, PATCH, CHANNELS = 32, 4, 3  # pixels
WIDTH, DEPTH, HEADS = 192, 6, 3  # of the encoder
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 128, 2, 4
HIDDEN = 0.75  # share of the patches that is hidden
GRID = IMAGE // PATCH
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, WARMUP, DECAY, BETAS, CLIP = 1e-3, 50, 0.05, (0.9, 0.95), 1.0


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, A, T, K)
        x: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x_BTD: Tensor) -> Tensor:
        x = x_BTD + self.attn(self.norm1(x_BTD))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Encoder(nn.Module):
    """The patches that are seen, (B, n), and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, images_BCHW: Tensor, keep_Bn: Tensor) -> Tensor:
        x = self.patch_embed["proj"](images_BCHW).flatten(2).mT + self.pos_embed[:, 1:]
        x = x.gather(1, keep_Bn[..., None].expand(-1, -1, WIDTH))
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        out: Tensor = self.norm(self.blocks(x))
        return out


class MAE(nn.Module):
    """Pictures, and which patches are seen, to the numbers of all patches (B, N, O)."""

    decoder_pos_embed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.decoder_embed = nn.Linear(WIDTH, DECODER_WIDTH)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, DECODER_WIDTH))
        self.register_buffer("decoder_pos_embed", sines(DECODER_WIDTH))
        self.decoder_blocks = nn.Sequential(*(Block(DECODER_WIDTH, DECODER_HEADS) for _ in range(DECODER_DEPTH)))
        self.decoder_norm = nn.LayerNorm(DECODER_WIDTH, eps=1e-6)
        self.decoder_pred = nn.Linear(DECODER_WIDTH, PATCH**2 * CHANNELS)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                rows, inside = part.weight.shape[0], part.weight[0].numel()
                std = inside**-0.5 if isinstance(part, nn.Conv2d) else (2 / (rows + inside)) ** 0.5
                nn.init.trunc_normal_(part.weight, std=std)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        for token in (self.mask_token, self.backbone.cls_token, self.backbone.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, images_BCHW: Tensor, keep_Bn: Tensor) -> Tensor:
        x = self.decoder_embed(self.backbone(images_BCHW, keep_Bn))  # (B, 1 + n, E)
        every_BNE = self.mask_token.expand(len(x), GRID**2, -1)
        every_BNE = every_BNE.scatter(1, keep_Bn[..., None].expand(-1, -1, DECODER_WIDTH), x[:, 1:])
        x = torch.cat([x[:, :1], every_BNE], dim=1) + self.decoder_pos_embed
        out: Tensor = self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)[:, 1:]))
        return out


def sines(width: int) -> Tensor:
    """(1, 1 + N, E): of the column, then of the row; the class token has none."""
    omega = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    at = torch.arange(GRID, dtype=torch.float64)[:, None] * omega
    y, x = at[:, None].expand(GRID, GRID, -1), at[None].expand(GRID, GRID, -1)
    table = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=2).flatten(0, 1).float()
    return torch.cat([torch.zeros(1, width), table])[None]


def loss_of(model: MAE, images_BCHW: Tensor, hidden_BN: Tensor) -> Tensor:
    """The squared error of each hidden patch, which has mean 0 and deviation 1."""
    keep_Bn = hidden_BN.to(torch.uint8).argsort(dim=1, stable=True)[:, : int((~hidden_BN[0]).sum())]
    cut = images_BCHW.unflatten(3, (GRID, PATCH)).unflatten(2, (GRID, PATCH))  # (B, C, h, p, w, q)
    patches_BNO = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    spread = (patches_BNO.var(-1, keepdim=True) + 1e-6).sqrt()
    target_BNO = (patches_BNO - patches_BNO.mean(-1, keepdim=True)) / spread
    off_BN = (model(images_BCHW, keep_Bn) - target_BNO).square().mean(-1)
    return (off_BN * hidden_BN).sum() / hidden_BN.sum()


def optimizer_of(model: MAE) -> torch.optim.Optimizer:
    """Tokens, tables, biases and norms do not decay."""
    free = {"mask_token", "backbone.cls_token", "backbone.pos_embed"}
    spared = [p for name, p in model.named_parameters() if p.ndim < 2 or name in free]
    rest = [p for name, p in model.named_parameters() if not (p.ndim < 2 or name in free)]
    groups = [{"params": rest, "weight_decay": DECAY}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS)


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    return LR * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def step_of(model: MAE, optimizer: torch.optim.Optimizer, images: Tensor, hidden: Tensor, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = loss_of(model, images, hidden)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return float(loss.detach())


def batches(folder: str, size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised random crops, mirrored or not, and which patches of each are hidden."""
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    while True:
        images = []
        for i in rng.integers(len(files), size=size):
            picture = Image.open(files[i]).convert("RGB")
            side = min(picture.size) * rng.uniform(0.2, 1.0) ** 0.5
            left, top = (rng.uniform(0, n - side) for n in picture.size)
            crop = picture.resize((IMAGE, IMAGE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
            pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255
            images.append((pixels.flip(-1) if rng.random() < 0.5 else pixels).sub(mean).div(std))
        order = torch.from_numpy(rng.random((size, GRID**2))).argsort(1).argsort(1)
        yield torch.stack(images), order < round(HIDDEN * GRID**2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of .jpg and .png")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", default="mae.safetensors", help="the encoder, by timm's names")
    asked = parser.parse_args()
    torch.manual_seed(0)
    model = MAE()
    optimizer = optimizer_of(model)
    stream = batches(asked.folder, asked.batch, np.random.default_rng(0))
    for step in range(asked.steps):
        loss = step_of(model, optimizer, *next(stream), rate(step, asked.steps))
        if step % 20 == 0 or step + 1 == asked.steps:
            print(f"step {step + 1}/{asked.steps} · loss {loss:.4f}", flush=True)
    from safetensors.torch import save_file

    save_file({name: t.contiguous() for name, t in model.backbone.state_dict().items()}, asked.out)


if __name__ == "__main__":
    main()
