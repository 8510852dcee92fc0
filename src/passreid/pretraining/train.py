"""Part-aware self-distillation: student, teacher, centres and their place in a run.

PASS (Zhu et al., ECCV 2022) as released in `PASS/main_pass.py`, after DINO (Caron et
al., ICCV 2021).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from passreid import storage
from passreid.backends.pytorch import find_dtype
from passreid.errors import TrainingError
from passreid.model import PartViT, use_fused_attention
from passreid.pretraining.config import PretrainConfig
from passreid.pretraining.data import EpochSampler, ViewDataset, Views, collate
from passreid.pretraining.loss import PartDistillation
from passreid.pretraining.network import Projected, ViewNetwork
from passreid.pretraining.optim import (
    Rates,
    build_optimizer,
    clip_gradients,
    rates,
    set_rates,
    update_teacher,
)
from passreid.training.batches import Batches
from passreid.training.loop import LOG_EVERY, Position
from passreid.training.process import Process, in_parallel, main_first, seed_all


class Pretraining:
    """Student, teacher, optimiser, data and place of one run: a stage for `training.loop.fit`.

    Args:
        student: Moved to the process's device; the teacher starts as its copy.
        config: The recipe, and the folder for what cannot be read or learnt from.
        process: This process.
        images: The training set.
    """

    def __init__(
        self,
        student: ViewNetwork,
        config: PretrainConfig,
        *,
        process: Process,
        images: ViewDataset,
    ) -> None:
        self.config, self.process, self.position = config, process, Position()
        self.epochs = config.epochs
        self.unreadable: dict[str, str] = {}
        self._waiting: list[Tensor] = []
        device, on_cpu = process.device, process.device.type == "cpu"
        self.student = student.to(device).train()
        self.teacher = ViewNetwork(config).to(device).train().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        # torch's fused attention is fast forward; on CPUs its backward is slow.
        use_fused_attention(self.student, not on_cpu)
        self.loss = PartDistillation(
            1 + config.areas,
            config.out_dim,
            student_temp=config.student_temp,
            center_momentum=config.center_momentum,
            centering=config.centering,
        ).to(device)
        self.dtype = find_dtype(config.precision, device)
        self.optimizer = build_optimizer(self.student, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if config.compile:
            self.student.compile()
            self.teacher.compile()
        self.wrapped = in_parallel(self.student, process, shared=[self.student, self.teacher])
        self.sampler = EpochSampler.of(config, len(images), process)
        self.loader = Batches(
            images, self.sampler, workers=config.workers, device=device, collate=collate
        )

    @property
    def exported(self) -> PartViT:
        """A copy of the teacher's backbone as a model of its own."""
        model = PartViT(self.teacher.architecture)
        model.vit.load_state_dict(self.teacher.vit.state_dict())
        return model.eval()

    def batches(self) -> int:
        """Return the steps of an epoch."""
        return self.sampler.steps

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        """Train on what is left of the epoch, handing control back after each step.

        Yields:
            The line for the metrics log every `LOG_EVERY` steps, else None.

        Raises:
            TrainingError: The loss or a gradient is not finite; the batch is kept on disk.
            DatasetError: A hundred images in a row cannot be read.
        """
        place, began, images = self.position, time.perf_counter(), 0
        self.sampler.set_epoch(place.epoch, skip=place.batch)
        for parts in zip(*[iter(self.loader)] * self.config.accumulate, strict=True):
            due = (place.batch + 1) % LOG_EVERY == 0 or place.batch + 1 == self.batches()
            now = rates(self.config, place.step, self.batches())
            watched = self._step(parts, now, watch=due)
            images += self.config.batch_size
            line = None
            if due:
                seconds, began = time.perf_counter() - began, time.perf_counter()
                line, images = self._line(now, watched, images / seconds), 0
            yield line
        self._share_unreadable()
        main_first(self.process, self._list_unreadable)

    def _step(self, parts: tuple[Views, ...], now: Rates, *, watch: bool) -> dict[str, float]:
        """Do one step; return the collapse watch where it is asked for."""
        config, place = self.config, self.position
        set_rates(self.optimizer, now)
        losses: list[Tensor] = []
        watched: dict[str, float] = {}
        for number, views in enumerate(parts):
            self.unreadable.update(views.unreadable)
            seed_all(config.seed, place.step, number, self.process.rank)
            final = number + 1 == len(parts)
            with contextlib.nullcontext() if final else self._without_sync():
                loss, watched = self._backward(views, now, watch=watch and final)
            losses.append(loss)
        norms = self._clipped(parts)
        if place.epoch < config.freeze_last_layer:
            for parameter in self.student.last_layers():
                parameter.grad = None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        update_teacher(self.teacher, self.student, now.momentum)
        self.loss.update_centers()
        clipped = sum(norm > config.clip_grad > 0 for norm in norms) / len(norms)
        largest = max(filter(math.isfinite, norms), default=0.0)
        extra = torch.tensor([largest, clipped], device=losses[0].device)
        self._waiting.append(torch.cat([torch.stack(losses).mean(dim=0), extra]))
        place.step += 1
        place.batch += 1
        return watched

    def _without_sync(self) -> contextlib.AbstractContextManager[Any]:
        """Keep DDP from exchanging gradients that are not complete yet."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def _backward(
        self, views: Views, now: Rates, *, watch: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Add the gradients of one part of a step.

        Returns:
            Total, CLS and part loss (3,), averaged over processes, and the collapse watch.
        """
        config, device = self.config, self.process.device
        whole = _normalised(views.globals, config, device)
        local = _normalised(views.locals, config, device)
        share = 1 / config.accumulate
        with torch.autocast(device.type, self.dtype or torch.float32, enabled=bool(self.dtype)):
            with torch.no_grad():
                taught: Projected = self.teacher(whole)
            said: Projected = self.wrapped(whole, local)
        targets = self.loss.targets(taught.logits, now.teacher_temp)
        result = self.loss(said.logits, targets)
        by_kind = [terms.nanmean() for terms in result.terms]
        values = torch.stack([result.loss.detach(), by_kind[0], by_kind[-1]])
        if self.process.world > 1:
            dist.all_reduce(values)
            values /= self.process.world
        if not math.isfinite(float(values[0])):
            self._refuse((views,), f"The loss is {float(values[0])}")
        self.scaler.scale(result.loss * share).backward()
        self.loss.observe(taught.logits, share)
        return values, self._watched(taught, targets) if watch else {}

    def _clipped(self, parts: tuple[Views, ...]) -> list[float]:
        """Clip the gradients; return their norms, which must be numbers."""
        self.scaler.unscale_(self.optimizer)
        norms = clip_gradients(self.student, self.config.clip_grad)
        # Under float16 an overflow is no fault: the scaler leaves the step out and scales less.
        if not self.scaler.is_enabled() and not all(map(math.isfinite, norms)):
            self._refuse(parts, "A gradient is not finite")
        return norms

    def _refuse(self, parts: tuple[Views, ...], what: str) -> None:
        """Keep a batch that cannot be learnt from, and stop."""
        step, rank = self.position.step, self.process.rank
        path = self.config.output / f"nonfinite-step-{step}-rank-{rank}.pt"
        with storage.replacing(path) as temporary:
            torch.save([views._asdict() for views in parts], temporary)
        raise TrainingError(
            f"{what} at step {step}; the batch is kept in {path}. Lower the learning rate or use "
            "--precision float32; the last checkpoint is kept."
        )

    @torch.no_grad()
    def _watched(self, taught: Projected, targets: list[Tensor]) -> dict[str, float]:
        """Measure what collapse shows in.

        Returns:
            The entropy of the teacher's targets in nats (0 or log K: it says the same of
            everything), the spread of its CLS tokens over images (1 where they lie anywhere on a
            sphere, 0 where they are one point), and the norm of the centres.
        """
        entropy = torch.cat([torch.special.entr(p).sum(dim=-1).flatten() for p in targets]).mean()
        cls = F.normalize(taught.cls.float(), dim=1)
        spread = cls.std(dim=0, correction=0).square().sum().sqrt()
        return {
            "teacher_entropy": float(entropy),
            "feature_std": float(spread),
            "center_norm": float(self.loss.centers.norm(dim=1).mean()),
        }

    def _line(self, now: Rates, watched: dict[str, float], speed: float) -> dict[str, Any]:
        """Average what was not yet logged."""
        total, cls, parts, norm, clipped = torch.stack(self._waiting).mean(dim=0).tolist()
        self._waiting = []
        return {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "loss": total,
            "loss_cls": cls,
            "loss_parts": parts,
            "lr": now.lr,
            "weight_decay": now.weight_decay,
            "momentum": now.momentum,
            "teacher_temp": now.teacher_temp,
            "grad_norm": norm,
            "clipped": clipped,
            **watched,
            "unreadable": len(self.unreadable),
            "images_per_second": round(speed, 2),
        }

    def _share_unreadable(self) -> None:
        """Make every process know what any of them could not read."""
        if self.process.world > 1:
            found: list[dict[str, str]] = [{}] * self.process.world
            dist.all_gather_object(found, self.unreadable)
            self.unreadable = {path: reason for part in found for path, reason in part.items()}

    def _list_unreadable(self) -> None:
        if self.unreadable:
            lines = [f"{path}\t{reason}\n" for path, reason in sorted(self.unreadable.items())]
            storage.write(self.config.output / "unreadable.txt", "".join(lines).encode())

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs (random numbers need nothing, see `training`)."""
        return {
            "step": self.position.step,
            "epoch": self.position.epoch,
            "batch": self.position.batch,
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "waiting": self._waiting,
            "unreadable": self.unreadable,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.position = Position(state["step"], state["epoch"], state["batch"])
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self._waiting = [values.to(self.process.device) for values in state["waiting"]]
        self.unreadable = dict(state["unreadable"])


def _normalised(pixels: Tensor, config: PretrainConfig, device: torch.device) -> Tensor:
    """uint8 (B, V, H, W, 3) -> float (V B, 3, H, W), view by view."""
    x = pixels.to(device, non_blocking=True).permute(1, 0, 4, 2, 3).flatten(0, 1).float()
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (config.mean, config.std))
    return x.div_(255).sub_(mean).div_(std)
