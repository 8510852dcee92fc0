"""Images per second of a pre-training step and of its views, beside a straightforward step.

    python benchmarks/pretraining.py                 ViT-S, batch 8, 65,536 prototypes, bfloat16
    python benchmarks/pretraining.py --precision float32 --peer
    python benchmarks/pretraining.py --areas 0 --crops 8
    python benchmarks/pretraining.py --views FOLDER       the augmentation alone, on one core

The peer is written here from the formulas in the way published code goes about it: a head, a weight
normalisation and a forward pass for each area, a loop over pairs of views, over tensors in clipping
and in the teacher's average. Its steps alternate with ours, so that whatever else the machine does
slows both; "busy" is the processor time of a step, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from passreid.data.filelist import FileList
from passreid.model import PartViT
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.data import ViewDataset, Views
from passreid.pretraining.network import ViewNetwork
from passreid.pretraining.optim import clip_gradients, update_teacher
from passreid.pretraining.pretrain import Pretraining
from passreid.pretraining.recipe import PretrainConfig
from passreid.training.process import Process, tuned_for_cpu

CPU = torch.device("cpu")


class Peer(nn.Module):
    """Backbone and heads, one forward per area and one module per head."""

    def __init__(self, config: PretrainConfig, drop_path: float) -> None:
        super().__init__()
        self.vit = PartViT(config.architecture, drop_path=drop_path).vit
        self.areas = config.areas

        def mlp() -> nn.Module:
            width = config.architecture.width
            first, second = nn.Linear(width, config.hidden), nn.Linear(config.hidden, config.hidden)
            last = nn.Linear(config.hidden, config.bottleneck)
            return nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

        def last() -> nn.Module:
            layer: nn.Module = weight_norm(
                nn.Linear(config.bottleneck, config.out_dim, bias=False), dim=0
            )
            parametrized: Any = layer.parametrizations
            parametrized.weight.original0.data.fill_(1)
            parametrized.weight.original0.requires_grad_(False)
            return layer

        self.mlps = nn.ModuleList(mlp() for _ in range(1 + config.areas))
        self.lasts = nn.ModuleList(last() for _ in range(1 + config.areas))

    def forward(self, images: Tensor, tokens: list[int]) -> list[Tensor]:
        """Return the logits of some tokens (0 is CLS) of one batch of views."""
        vit = self.vit
        assert vit.pos_embed is not None and vit.cls_token is not None
        special: Tensor = vit.cls_token
        if vit.reg_token is not None:
            special = torch.cat([special, vit.reg_token], dim=1)
        special = special + vit.pos_embed[:, : 1 + self.areas]
        grid = vit.pos_embed[:, 1 + self.areas :].unflatten(1, (16, 8)).permute(0, 3, 1, 2)
        rows, columns = images.shape[2] // 16, images.shape[3] // 16
        scale = ((rows + 0.1) / 16, (columns + 0.1) / 8)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        x = torch.cat(
            [special[:, tokens].expand(len(images), -1, -1), vit.patch_embed(images) + grid], 1
        )
        x = vit.norm(vit.blocks(x))
        out = []
        for place, token in enumerate(tokens):
            z = F.normalize(self.mlps[token](x[:, place]), dim=-1)
            out.append(self.lasts[token](z))
        return out


class PeerStep:
    """One step of the straightforward way."""

    def __init__(self, config: PretrainConfig, dtype: torch.dtype | None) -> None:
        self.config, self.dtype = config, dtype
        self.student, self.teacher = Peer(config, config.drop_path), Peer(config, 0.0)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        chosen = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(chosen, lr=1e-4)
        self.centers = torch.zeros(1 + config.areas, config.out_dim)

    def __call__(self, whole: Tensor, local: Tensor) -> None:
        """Forward, loss, backward, clipping, AdamW, average."""
        config = self.config
        tokens = list(range(1 + config.areas))
        with torch.autocast("cpu", self.dtype or torch.float32, enabled=self.dtype is not None):
            with torch.no_grad():
                taught = self.teacher(whole, tokens)
            said: list[list[Tensor]] = [[] for _ in tokens]
            for token, logits in enumerate(self.student(whole, tokens)):
                said[token] += logits.chunk(2)
            for number, views in enumerate(local.chunk(max(config.areas, 1))):
                seen = [0, number + 1] if config.areas else [0]
                for token, logits in zip(seen, self.student(views, seen), strict=True):
                    said[token] += logits.chunk(config.crops)
        total, count = torch.zeros(()), 0
        for token in tokens:
            center, mean = self.centers[token], taught[token].float().mean(dim=0)
            for q, logits in enumerate(taught[token].chunk(2)):
                wanted = F.softmax((logits.float() - center) / 0.04, dim=-1)
                for v, student in enumerate(said[token]):
                    if v != q:
                        log = F.log_softmax(student.float() / 0.1, dim=-1)
                        total, count = total + -(wanted * log).sum(dim=-1).mean(), count + 1
            center.mul_(0.9).add_(mean, alpha=0.1)
        (total / count).backward()
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm(2)
                if 3 / (norm + 1e-6) < 1:
                    parameter.grad.mul_(3 / (norm + 1e-6))
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for ours, theirs in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                ours.mul_(0.996).add_(theirs, alpha=0.004)


def timed(function: Callable[[], object], into: list[tuple[float, float]]) -> None:
    """Append the seconds on the clock and on the processor."""
    clock, busy = time.perf_counter(), time.process_time()
    function()
    into.append((time.perf_counter() - clock, time.process_time() - busy))


def report(name: str, seconds: list[tuple[float, float]], images: int) -> None:
    """Print medians."""
    clock, busy = (sorted(column)[len(column) // 2] for column in zip(*seconds, strict=True))
    speed = f"{images / clock:6.2f} images/s"
    print(f"{name:28} {clock:7.3f} s   busy {busy:7.3f} s   {speed}", flush=True)


def measure_steps(args: argparse.Namespace) -> None:
    """Time whole steps, ours and where asked the peer's in turn, then the parts of ours."""
    config = PretrainConfig(
        data=Path(),
        output=Path(),
        preset=args.preset,
        areas=args.areas,
        crops=args.crops,
        out_dim=args.out_dim,
        batch_size=args.batch,
        precision=args.precision,
        workers=0,
    )
    torch.manual_seed(0)
    (h, w), (lh, lw) = config.architecture.image_size, config.local_image_size
    views = Views(
        torch.randint(0, 256, (args.batch, 2, h, w, 3), dtype=torch.uint8),
        torch.randint(
            0,
            256,
            (args.batch, (max(config.areas, 1) * config.crops), lh, lw, 3),
            dtype=torch.uint8,
        ),
        torch.zeros(args.batch, dtype=torch.long),
        [],
    )
    images: Any = [None] * args.batch
    student = ViewNetwork(config, drop_path=config.drop_path)
    stage = Pretraining(student, config, process=Process(0, 1, CPU), images=images)
    stage.position.epoch, stage.position.step = 1, 1
    peer = PeerStep(config, stage.dtype) if args.peer else None
    if peer is not None:
        whole, local = (
            torch.randn(2 * args.batch, 3, h, w),
            torch.randn((max(config.areas, 1) * config.crops) * args.batch, 3, lh, lw),
        )
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(args.steps + 2):
        timed(lambda: stage.step((views,)), ours)
        if peer is not None:
            timed(lambda: peer(whole, local), theirs)
    report("step", ours[2:], args.batch)
    if peer is not None:
        report("straightforward step", theirs[2:], args.batch)
    measure_parts(stage, args)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


def measure_parts(stage: Pretraining, args: argparse.Namespace) -> None:
    """Time the parts of a step."""
    config = stage.config
    (h, w), (lh, lw) = config.architecture.image_size, config.local_image_size
    whole = torch.randn(2 * args.batch, 3, h, w)
    local = torch.randn((max(config.areas, 1) * config.crops) * args.batch, 3, lh, lw)
    parts: dict[str, list[tuple[float, float]]] = {}
    state: dict[str, Any] = {}

    def part(name: str, function: Callable[[], Any]) -> None:
        timed(lambda: state.__setitem__(name, function()), parts.setdefault(name, []))

    for _ in range(args.steps + 1):
        dtype = stage.dtype
        with torch.autocast("cpu", dtype or torch.float32, enabled=dtype is not None):
            with torch.no_grad():
                part("teacher forward", lambda: stage.teacher(whole))
            part("student forward", lambda: stage.student(whole, local))
        part("targets", lambda: stage.loss.targets(state["teacher forward"].logits, 0.04))
        part("loss", lambda: stage.loss(state["student forward"].logits, state["targets"]))
        part("backward", lambda: state["loss"].loss.backward())
        part("clipping", lambda: clip_gradients(stage.student, 3.0))
        part("AdamW", stage.optimizer.step)
        part("average", lambda: update_teacher(stage.teacher, stage.student, 0.996))
        stage.optimizer.zero_grad()
        state.clear()
    for name, seconds in parts.items():
        report(f"  {name}", seconds[1:], args.batch)


def measure_views(folder: Path) -> None:
    """Time decoding and the views of 400 images in this thread."""
    config = PretrainConfig(data=folder, output=Path())
    torch.set_num_threads(1)
    images = ViewDataset(FileList.find(folder), MultiCrop(config), seed=0)
    for _ in range(3):
        clock, busy = time.perf_counter(), time.thread_time()
        for index in range(400):
            images[index % len(images), index]
        clock, busy = time.perf_counter() - clock, time.thread_time() - busy
        print(f"views {400 / clock:6.1f} images/s   {400 / busy:6.1f} per second of one core")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--areas", type=int, default=3)
    parser.add_argument("--crops", type=int, default=3)
    parser.add_argument("--out-dim", type=int, default=65536)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--views", type=Path)
    args = parser.parse_args()
    if args.views:
        measure_views(args.views)
    else:
        with tuned_for_cpu(CPU):
            measure_steps(args)


if __name__ == "__main__":
    main()
