"""Part-aware self-distillation: student, teacher and centres.

PASS (Zhu et al., ECCV 2022) as released in `PASS/main_pass.py`, after DINO (Caron et al., ICCV
2021).
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from passreid import storage
from passreid.card import ModelCard
from passreid.checkpoint import initialise
from passreid.errors import TrainingError
from passreid.hub import resolve
from passreid.model import PartViT, use_fused_attention
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.data import EpochSampler, ViewDataset, Views, collate
from passreid.pretraining.loss import PartDistillation
from passreid.pretraining.network import Projected, ViewNetwork
from passreid.pretraining.optim import (
    build_optimizer,
    clip_gradients,
    rates,
    set_rates,
    update_teacher,
)
from passreid.pretraining.recipe import PretrainConfig
from passreid.training.batches import Batches
from passreid.training.callbacks import Callback
from passreid.training.folder import IMAGES, UNREADABLE, RunFolder
from passreid.training.process import Process, main_first, seed_all
from passreid.training.run import Job, list_images, run, warn_of_late_peak
from passreid.training.scoring import read_watched
from passreid.training.stage import Stage

log = logging.getLogger("passreid")


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path | None:
    """Pre-train a backbone on unlabelled images; the teacher's is exported.

    Under torchrun, every process calls this with the same configuration. The arguments and the
    result are those of `finetune`.

    Raises:
        UsageError: No images, or the run folder holds another run.
        DatasetError: Fewer images than a batch, or too many that cannot be read.
        TrainingError: The loss is not finite, or no checkpoint can be read.
    """
    return run(config, _build, resume=resume, progress=progress, callbacks=callbacks)


class Pretraining(Stage):
    """Student, teacher, centres and data of one run.

    Args:
        student: The network to train; the teacher starts as its copy.
        config: The recipe, and the folder for what cannot be read or learnt from.
        process: This process.
        images: The training set.
    """

    measures = ("loss", "loss_cls", "loss_parts", "grad_norm", "clipped")
    config: PretrainConfig

    def __init__(
        self,
        student: ViewNetwork,
        config: PretrainConfig,
        *,
        process: Process,
        images: ViewDataset,
    ) -> None:
        super().__init__(config, process, accumulate=config.accumulate)
        self.crops_per_batch = config.batch_size // config.accumulate
        self.unreadable: dict[str, str] = {}
        device = process.device
        self.student = student.to(device).train()
        self.teacher = ViewNetwork(config).to(device).train().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        # torch's fused attention is fast forward; on CPUs its backward is slow.
        use_fused_attention(self.student, device.type != "cpu")
        self.loss = PartDistillation(
            1 + config.areas,
            config.out_dim,
            student_temp=config.student_temp,
            center_momentum=config.center_momentum,
            centering=config.centering,
        ).to(device)
        self.optimizer = build_optimizer(self.student, config)
        self.saved |= {"student": self.student, "teacher": self.teacher, "loss": self.loss}
        self.saved["optimizer"] = self.optimizer
        if config.compile:
            self.teacher.compile()
        self.wrapped = self.prepare(self.student, shared=[self.student, self.teacher])
        self.sampler = EpochSampler(len(images), config, process)
        self.loader = Batches(
            images, self.sampler, workers=config.workers, device=device, collate=collate
        )

    @property
    def exported(self) -> PartViT:
        """A copy of the teacher's backbone as a model of its own."""
        model = PartViT(self.teacher.architecture).to(self.process.device)
        model.vit.load_state_dict(self.teacher.vit.state_dict())
        return model.eval()

    def batches(self) -> int:
        """Return the steps of an epoch."""
        return self.sampler.steps

    def start_epoch(self) -> Iterable[Views]:
        """Return the parts of the steps left in the current epoch."""
        self.sampler.set_epoch(self.position.epoch, skip=self.position.batch)
        return self.loader

    def step(self, parts: Sequence[Views]) -> Mapping[str, float]:
        """Do one step in some parts; return the schedules' values and the collapse diagnostics."""
        config, place = self.config, self.position
        now, diagnostics = rates(config, place.step, self.batches()), {}
        set_rates(self.optimizer, now)
        losses: list[Tensor] = []
        for number, views in enumerate(parts):
            self.unreadable.update(views.unreadable)
            seed_all(config.seed, place.step, number, self.process.rank)
            final = number + 1 == len(parts)
            with contextlib.nullcontext() if final else self._without_sync():
                loss, taught, targets = self._backward(views, now.teacher_temp)
            losses.append(loss)
        if self.is_log_due(ahead=1):
            diagnostics = self._diagnose(taught, targets)
        norms = self._clip(parts)
        if place.epoch < config.freeze_last_layer:
            for parameter in self.student.last_layers():
                parameter.grad = None
        self.update_weights()
        update_teacher(self.teacher, self.student, now.momentum)
        self.loss.update_centers()
        clipped = sum(norm > config.clip_grad > 0 for norm in norms) / len(norms)
        largest = max(filter(math.isfinite, norms), default=0.0)
        extra = torch.tensor([largest, clipped], device=losses[0].device)
        self.waiting.append(torch.cat([torch.stack(losses).mean(dim=0), extra]))
        place.step, place.batch = place.step + 1, place.batch + 1
        return {**now._asdict(), **diagnostics, "unreadable": len(self.unreadable)}

    def _without_sync(self) -> contextlib.AbstractContextManager[Any]:
        """Keep DDP from exchanging gradients that are not complete yet."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def _backward(
        self, views: Views, teacher_temp: float
    ) -> tuple[Tensor, Projected, list[Tensor]]:
        """Add the gradients of one part of a step.

        Returns:
            Total, CLS and part loss (3,), averaged over processes; the teacher's output; targets.
        """
        config, device = self.config, self.process.device
        whole = _normalised(views.globals, config, device)
        local = _normalised(views.locals, config, device)
        share = 1 / config.accumulate
        with torch.autocast(device.type, self.dtype or torch.float32, enabled=bool(self.dtype)):
            with torch.no_grad():
                taught: Projected = self.teacher(whole)
            learnt: Projected = self.wrapped(whole, local)
        targets = self.loss.targets(taught.logits, teacher_temp)
        result = self.loss(learnt.logits, targets)
        by_kind = [terms.nanmean() for terms in result.terms]
        values = torch.stack([result.loss.detach(), by_kind[0], by_kind[-1]])
        if self.process.world > 1:
            dist.all_reduce(values)
            values /= self.process.world
        if not math.isfinite(float(values[0])):
            self._stop((views,), f"The loss is {float(values[0])}")
        self.backward(result.loss * share)
        self.loss.observe(taught.logits, share)
        return values, taught, targets

    def _clip(self, parts: Sequence[Views]) -> list[float]:
        """Clip the gradients; return their norms, which must be finite."""
        self.scaler.unscale_(self.optimizer)
        norms = clip_gradients(self.student, self.config.clip_grad)
        # An overflow under float16 is no error: the scaler skips the step and lowers the scale.
        if not self.scaler.is_enabled() and not all(map(math.isfinite, norms)):
            self._stop(parts, "A gradient is not finite")
        return norms

    def _stop(self, parts: Sequence[Views], what: str) -> None:
        """Keep a batch that gave a loss or gradient that is not finite, and stop the run."""
        step, rank = self.position.step, self.process.rank
        path = self.config.output / f"nonfinite-step-{step}-rank-{rank}.pt"
        with storage.replacing(path) as temporary:
            torch.save([views._asdict() for views in parts], temporary)
        raise TrainingError(
            f"{what} at step {step}; the batch is kept in {path}. Lower the learning rate or use "
            "--precision float32; the last checkpoint is kept."
        )

    @torch.no_grad()
    def _diagnose(self, taught: Projected, targets: list[Tensor]) -> dict[str, float]:
        """Compute collapse diagnostics: target entropy, CLS spread, centre norm.

        The entropy is in nats (0 or log K is collapse). The spread over images is 1 for CLS tokens
        anywhere on a sphere and 0 for a single point.
        """
        entropy = torch.cat([torch.special.entr(p).sum(dim=-1).flatten() for p in targets]).mean()
        cls = F.normalize(taught.cls.float(), dim=1)
        spread = cls.std(dim=0, correction=0).square().sum().sqrt()
        return {
            "teacher_entropy": float(entropy),
            "feature_std": float(spread),
            "center_norm": float(self.loss.centers.norm(dim=1).mean()),
        }

    def end_epoch(self) -> None:
        """List what any process could not read."""
        found = [self.unreadable]
        if self.process.world > 1:
            found *= self.process.world
            dist.all_gather_object(found, self.unreadable)
        self.unreadable = {path: reason for part in found for path, reason in part.items()}
        lines = [f"{path}\t{reason}\n" for path, reason in sorted(self.unreadable.items())]
        if lines:
            listed, text = self.config.output / UNREADABLE, "".join(lines).encode()
            main_first(self.process, lambda: storage.write(listed, text))

    def state(self) -> dict[str, Any]:
        """Return the state, with the list of unreadable images."""
        return super().state() | {"unreadable": self.unreadable}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a saved state."""
        super().restore(state)
        self.unreadable = dict(state["unreadable"])


def _normalised(pixels: Tensor, config: PretrainConfig, device: torch.device) -> Tensor:
    """Normalise uint8 (B, V, H, W, 3) to float (V B, 3, H, W), ordered by view."""
    x = pixels.to(device, non_blocking=True).permute(1, 0, 4, 2, 3).flatten(0, 1).float()
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (config.mean, config.std))
    return x.div_(255).sub_(mean).div_(std)


def _build(config: PretrainConfig, process: Process, folder: RunFolder | None) -> Job:
    student = ViewNetwork(config, drop_path=config.drop_path)
    if config.init is not None:
        model = PartViT(config.architecture)
        log.info("%s", initialise(model, resolve(config.init)))
        student.vit.load_state_dict(model.vit.state_dict())
    watched = read_watched(config.watch)
    files = list_images(config, process, folder)
    images = ViewDataset(files, MultiCrop(config), seed=config.seed)
    stage = Pretraining(student, config, process=process, images=images)
    if process.is_main:
        log.info("Pre-training on %d images.", len(files))
    warn_of_late_peak(config, process)
    start = config.init or "random weights"
    card = ModelCard(
        name=config.output.resolve().name,
        architecture=config.architecture,
        mean=config.mean,
        std=config.std,
        training_data=f"{len(files)} unlabelled images, starting from {start}",
    )
    return Job(
        stage=stage,
        card=card,
        scored_on=watched,
        score_every=config.watch_every,
        save_steps=config.save_steps,
        files={IMAGES: files.text},
    )
