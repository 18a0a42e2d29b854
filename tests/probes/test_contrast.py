"""Probe b, chunked contrast on two ranks: however the batch is cut, the gradient is that of the whole batch at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from probes.contrast import PAIRS, SCENES, Contrast, Floats, Pairs, fresh, gradients, in_ranks, learn
from tessella.data.origins.scenes import scene_batch
from tessella.errors import BadInput
from tessella.objectives.objective import Batch

STEPS = 250  # enough to name most colours and shapes


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, as a share of the largest gradient."""
    assert a.keys() == b.keys() and len(a) > 20
    return max(float((a[n] - b[n]).abs().max()) for n in a) / max(float(g.abs().max()) for g in b.values())


def batch_of(pairs: int = PAIRS, seed: int = 0) -> Batch:
    batch: Batch = Floats()(scene_batch(SCENES, seed, range(pairs)))
    return batch


class CutOnly(Contrast):
    """Embeds in chunks and keeps everything, as if memory were free."""

    def embed_again(self, images: Tensor, ids_BL: Tensor) -> Pairs:
        pairs: Pairs = self.dual(images, ids_BL)
        return pairs


def kept_bytes(objective: Contrast) -> int:
    """What a forward pass of 48 pairs holds for the backward pass, parameters and inputs apart."""
    batch = batch_of(48)
    given = {
        t.untyped_storage().data_ptr() for t in [*objective.parameters(), *batch.values()] if isinstance(t, Tensor)
    }
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        losses, _ = objective(batch, 0.0)
        total = sum(kept.values())
        losses["contrast"].backward()
    return total


def test_chunks_keep_few_activations() -> None:
    whole, chunked = kept_bytes(fresh()), kept_bytes(fresh(chunk=4))
    assert chunked < whole / 20
    torch.manual_seed(0)
    assert kept_bytes(CutOnly(chunk=4)) > whole / 2, "chunks that are not recomputed must be seen"


def test_recomputation_repeats_the_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(kind: type[Contrast]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return learn(kind(chunk=5, dropout=0.3), torch.float64).gradients

    kept = gradient(CutOnly)
    assert apart(gradient(Contrast), kept) < 1e-14
    monkeypatch.setattr("probes.contrast.checkpoint", partial(checkpoint, preserve_rng_state=False))
    assert apart(gradient(Contrast), kept) > 1e-2, "other dropout in the recomputation must be seen"


def test_a_batch_is_never_cut() -> None:
    with pytest.raises(BadInput, match=r"accumulate is 2, but Contrast compares the samples .* chunks inside"):
        learn(fresh(), accumulate=2)

    class Large(Contrast):
        def forward(self, batch: Batch, progress: float) -> Any:
            raise torch.OutOfMemoryError("simulated")

    with pytest.raises(BadInput, match=rf"micro-batches of {PAIRS}; .*smaller chunks .*train\.batch"):
        learn(Large())


def test_finds_the_caption_of_a_picture() -> None:
    held_out = scene_batch(SCENES, 1, range(64))

    def retrieval(infer: Any) -> dict[str, float]:
        pairs, said = infer(held_out), held_out["caption"]
        best = (pairs.images @ pairs.texts.T).argmax(1).tolist()
        return {"found": sum(said[i] == said[j] for i, j in enumerate(best)) / len(best)}

    before = learn(fresh(), job={"evaluate": retrieval}, batch=2).metrics["found"]
    after = learn(fresh(chunk=16), job={"evaluate": retrieval}, batch=32, steps=STEPS).metrics["found"]
    assert before < 0.15 and after > 0.5


def test_two_ranks_and_chunks_are_one_batch(tmp_path: Path) -> None:
    told = run_ranks(2, in_ranks, out=tmp_path)
    for kind in (torch.float32, torch.float64):
        whole = gradients(kind)
        for name in ("fp32",) if kind == torch.float32 else ("fp64", "fsdp"):
            assert apart(told[0][name], whole) < (1e-6 if kind == torch.float32 else 1e-14)
            assert all(float(g.abs().max()) > 0 for g in told[0][name].values())
    assert apart(told[0]["deaf"], gradients(torch.float32)) > 1e-2, "a gather without gradient must be seen"

    alone = learn(fresh(), steps=10).losses
    assert told[0]["losses"] == pytest.approx(alone, rel=1e-5) and alone[-1] < alone[0]
    assert told[1]["losses"] == told[0]["losses"]
    assert "multiple of 2" in told[0]["uneven"]
