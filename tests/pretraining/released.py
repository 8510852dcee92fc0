"""The two steps of the released pre-training whose numbers are stored, done by this project."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from passreid.checkpoint.layouts import PASS, spell
from passreid.pretraining.loss import Distillation, PartDistillation
from passreid.pretraining.network import Projected, ViewNetwork, resample_positions
from passreid.pretraining.optim import (
    build_optimizer,
    clip_gradients,
    pieces,
    rates,
    set_rates,
    update_teacher,
)
from passreid.pretraining.recipe import PretrainRecipe
from tests import seeded

Array = npt.NDArray[Any]
Fields = dict[str, Array]
RECIPE = PretrainRecipe(out_dim=1024, drop_path=0.0)
STEPS_PER_EPOCH = 4082
CASES = {"A": (0, 1000, 3.0), "B": (1, 5082, 0.5)}
"""Epoch, iteration, clipping limit."""


class Snapshot(NamedTuple):
    """Norms of all tensors, and the watched ones whole; in double, by the original's names."""

    norms: dict[str, float]
    watched: Fields


def blank() -> ViewNetwork:
    """Return a network whose weights are yet to be set: drawing them takes a second."""
    with torch.device("meta"):
        network = ViewNetwork(RECIPE)
    network.to_empty(device="cpu")
    return network


def foreign_names(network: ViewNetwork, name: str, tensor: Tensor) -> list[str]:
    """Return what the original calls the pieces of one of our parameters."""
    if not name.startswith("heads."):
        return [f"backbone.{bare}" for bare in spell(name, tensor, network.architecture, PASS)]
    found = re.fullmatch(r"heads\.(\d)\.(.+)", name)
    assert found
    kind, rest = found.groups()
    tokens = ["cls"] if kind == "0" else [f"pt{i + 1}" for i in range(len(tensor))]
    last = {"directions": "weight_v", "lengths": "weight_g"}
    if rest in last:
        return [f"head.last_layer_{token}.{last[rest]}" for token in tokens]
    sort, layer = rest.split(".")
    sort = {"weights": "weight", "biases": "bias"}[sort]
    return [f"head.mlp_{token}.{2 * int(layer)}.{sort}" for token in tokens]


def cut(network: ViewNetwork, *, gradients: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield the original's tensors (or their gradients): slices of ours."""
    for name, parameter in network.named_parameters():
        value = parameter.grad if gradients else parameter.data
        if value is not None:
            names = foreign_names(network, name, value)
            yield from zip(names, pieces(name, value, network), strict=True)


def look(network: ViewNetwork, watched: Collection[str], *, gradients: bool = False) -> Snapshot:
    """Measure all tensors, and copy the watched ones."""
    norms, kept = {}, {}
    for name, piece in cut(network, gradients=gradients):
        norms[name] = float(torch.linalg.vector_norm(piece, dtype=torch.float64))
        if name in watched:
            kept[name] = piece.to(torch.float64, copy=True).numpy()
    return Snapshot(norms, kept)


def fill(network: ViewNetwork, prefix: str = "") -> dict[str, int]:
    """Set all weights from their names; return the CRC-32 of each."""
    checks = {}
    for name, piece in cut(network):
        values = seeded.tensor(prefix + name, tuple(piece.shape))
        piece.copy_(torch.from_numpy(values))
        checks[name] = zlib.crc32(np.ascontiguousarray(values).tobytes())
    return checks


def views() -> tuple[Tensor, Tensor]:
    """Return the 2 global and 9 local views of two images, view by view."""
    sizes = [(256, 128)] * 2 + [(128, 64)] * 9
    crops = [
        seeded.signed(seeded.image(f"view{view}.sample{sample}", *size))
        for view, size in enumerate(sizes)
        for sample in range(2)
    ]
    return torch.from_numpy(np.stack(crops[:4])), torch.from_numpy(np.stack(crops[4:]))


def results(names: list[str], watched: list[str]) -> Fields:
    """Do both cases; return every stored field of them."""
    out: Fields = {}
    student, teacher = blank(), blank()
    checks = fill(student)
    out["weight_crc32"] = np.array([checks[name] for name in names], np.uint32)
    start = {name: value.clone() for name, value in student.state_dict().items()}
    for letter in CASES:
        student.load_state_dict(start)
        student.zero_grad()
        if letter == "A":
            teacher.load_state_dict(start)
        else:
            checks = fill(teacher, "teacher:")
            out["teacherB_crc32"] = np.array([checks[name] for name in names], np.uint32)
        found = _case(letter, student, teacher, names, watched)
        out |= {f"{letter}_{field}": value for field, value in found.items()}
    return out


def _case(
    letter: str, student: ViewNetwork, teacher: ViewNetwork, names: list[str], watched: list[str]
) -> Fields:
    """Do one step and look at the views again."""
    epoch, step, clip = CASES[letter]
    loss = PartDistillation(4, RECIPE.out_dim)
    if letter == "B":
        tokens = ("cls", "pt1", "pt2", "pt3")
        centers = [seeded.tensor(f"center_{token}", (1, 1024)) for token in tokens]
        loss.centers.copy_(torch.from_numpy(np.concatenate(centers)))
    optimizer = build_optimizer(student, RECIPE)
    now = rates(RECIPE, step, STEPS_PER_EPOCH)
    set_rates(optimizer, now)
    whole, local = views()
    with torch.no_grad():
        taught = teacher(whole)
    said = student(whole, local)
    result = loss(said.logits, loss.targets(taught.logits, now.teacher_temp))
    out = {**_outputs(student, said, taught), **_terms(result)}
    loss.observe(taught.logits)
    loss.update_centers()
    out["centers_after"] = loss.centers.numpy().copy()
    result.loss.backward()
    before = look(student, watched)
    out |= _gradients(student, clip, names, watched)
    if epoch < RECIPE.freeze_last_layer:
        for parameter in student.last_layers():
            parameter.grad = None
    optimizer.step()
    after, old = look(student, watched), look(teacher, watched)
    out |= _moved("step", before, after, watched)
    out["step_param_norm_all"] = np.array([after.norms[name] for name in names])
    update_teacher(teacher, student, now.momentum)
    out |= _moved("ema", old, look(teacher, watched), watched)
    with torch.no_grad():
        targets = loss.targets(teacher(whole).logits, now.teacher_temp)
        out["loss_second"] = loss(student(whole, local).logits, targets).loss.numpy()
    out["lr_wd_momentum"] = np.array(now[:3])
    out["epoch_it"], out["clip"] = np.array([epoch, step]), np.array(clip)
    return out


def _outputs(student: ViewNetwork, said: Projected, taught: Projected) -> Fields:
    """Return tokens and logits as the original groups them, with their check sums."""
    whole, local = views()
    with torch.no_grad():
        global_tokens, local_tokens = student.global_tokens(whole), student.local_tokens(local)
    found = {"student_backbone_global": global_tokens}
    found |= {f"student_backbone_area{i + 1}": tokens for i, tokens in enumerate(local_tokens)}
    found["teacher_global"] = torch.cat(taught.logits).flatten(1, 2).transpose(0, 1)
    cls, parts = said.logits
    both = torch.cat([cls[:, :2], parts[:, :2]])
    found["student_global"] = both.flatten(1, 2).transpose(0, 1)
    for i in range(3):
        of_area = torch.stack([cls[0, 2 + 3 * i : 5 + 3 * i], parts[i, 2:]])
        found[f"student_area{i + 1}"] = of_area.flatten(1, 2).transpose(0, 1)
    out: Fields = {}
    for name, tensor in found.items():
        rows = tensor.detach().double().numpy()
        probe = np.random.default_rng(zlib.crc32(b"probe")).standard_normal(rows.shape[-1])
        out[f"{name}_norm"] = np.linalg.norm(rows, axis=-1)
        out[f"{name}_first64"] = rows[..., :64]
        out[f"{name}_probe"] = rows @ probe
    return out


def _terms(result: Distillation) -> Fields:
    """Return each term under (branch, teacher view, student view), views numbered 0 to 10."""
    branches = [(result.terms[0][0], list(range(11)))]
    branches += [
        (part, [0, 1, *range(2 + 3 * i, 5 + 3 * i)]) for i, part in enumerate(result.terms[1])
    ]
    index, value = [], []
    for branch, (pairs, numbers) in enumerate(branches):
        for q in range(2):
            for column, v in enumerate(numbers):
                if v != q:
                    index.append((branch, q, v))
                    value.append(float(pairs[q, column]))
    sums = [float(pairs.double().nansum()) for pairs, _ in branches]
    return {
        "term_index": np.array(index),
        "term_value": np.array(value),
        "branch_sum": np.array(sums),
        "loss": result.loss.detach().numpy(),
    }


def _gradients(student: ViewNetwork, clip: float, names: list[str], watched: list[str]) -> Fields:
    raw = look(student, watched, gradients=True)
    norms = clip_gradients(student, clip)
    clipped = look(student, watched, gradients=True)
    none = np.zeros(16)
    return {
        "grad_norm": np.array([raw.norms.get(name, -1.0) for name in watched]),
        "grad_norm_all": np.array([raw.norms.get(name, -1.0) for name in names]),
        "grad_first": np.stack([raw.watched.get(n, none).ravel()[:16] for n in watched]),
        "grad_norm_clipped": np.array([clipped.norms.get(name, -1.0) for name in watched]),
        "n_clipped": np.array(float(sum(norm > clip for norm in norms))),
    }


def _moved(what: str, before: Snapshot, after: Snapshot, watched: list[str]) -> Fields:
    update = [np.linalg.norm(after.watched[name] - before.watched[name]) for name in watched]
    return {
        f"{what}_param_norm": np.array([after.norms[name] for name in watched]),
        f"{what}_update_norm": np.array(update),
        f"{what}_first": np.stack([after.watched[name].ravel()[:16] for name in watched]),
    }


def position_tables(table: Array) -> Fields:
    """Resample a table (1, 128, C) to the four grids that are stored."""
    grids = {"global": (16, 8), "local": (8, 4), "local_96x48": (6, 3), "global_384": (24, 8)}
    return {
        name: resample_positions(torch.from_numpy(table), (16, 8), grid, "released").numpy()
        for name, grid in grids.items()
    }


def schedules(iterations: Array, batch_size: int, steps_per_epoch: int) -> Fields:
    """Return learning rate, weight decay and momentum of the released recipe."""
    recipe = PretrainRecipe(batch_size=batch_size)
    found = np.array([rates(recipe, int(i), steps_per_epoch)[:3] for i in iterations])
    return {"lr": found[:, 0], "wd": found[:, 1], "momentum": found[:, 2]}


def groups(names: list[str]) -> Array:
    """Return 0 for a decayed tensor, 1 for one that is not, -1 for one that stands still."""
    network = blank()
    optimizer = build_optimizer(network, RECIPE)
    number = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    found = {
        foreign: number.get(id(parameter), -1)
        for name, parameter in network.named_parameters()
        for foreign in foreign_names(network, name, parameter)
    }
    return np.array([found[name] for name in names])
