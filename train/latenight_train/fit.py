"""Train the VAE: loss, schedule, checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from latenight.errors import StartupError
from latenight.passes import usable_redshift
from latenight_train.graph import Model
from latenight_train.pixels import clean, norm_of
from latenight_train.vae import (
    Z_RANGE,
    Architecture,
    Vae,
    kl_divergence,
    negative_log_likelihood,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from latenight_train.data import Survey

BATCH = 64
LEARNING_RATE = 1.5e-3
WARM_UP = 0.1  # of the training: learning rate and KL weight rise
CHECKPOINT_S = 30.0


@dataclass(frozen=True)
class Plan:
    """What determines a training run; two runs with one plan that end by epochs give one model.

    Attributes:
        architecture: sizes of the network.
        epochs: passes over the training spectra.
        max_minutes: end earlier after this time; the schedule then follows the time.
        seed: of initial weights, order and draws.
    """

    architecture: Architecture
    epochs: int
    max_minutes: float | None
    seed: int


@dataclass
class Progress:
    """How far training has come."""

    step: int = 0
    elapsed_s: float = 0.0
    loss: float = float("nan")


def fit_vae(
    survey: Survey, rows: NDArray[np.intp], plan: Plan, *, device: str, checkpoint: Path, resume: bool
) -> tuple[Vae, Progress]:
    """Train on the given rows of the survey.

    Args:
        survey: the spectra.
        rows: (n,) training rows, all eligible and with a usable redshift.
        plan: sizes, length and seed.
        device: "cpu" or "cuda".
        checkpoint: file written every 30 s.
        resume: go on from the checkpoint if there is one.

    Raises:
        StartupError: the checkpoint is of another plan or of other spectra.
    """
    torch.manual_seed(plan.seed)
    identity = {"plan": asdict(plan), "spectra": _digest(survey, rows)}
    model = Model(Vae(plan.architecture)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    progress = Progress()
    if resume and checkpoint.is_file():
        progress = _restore(checkpoint, identity, model, optimizer)
    n_steps = plan.epochs * max(len(rows) // BATCH, 1)
    before_s, started = progress.elapsed_s, time.monotonic()
    saved_s = before_s
    bar = tqdm(total=1.0, desc="training", bar_format="{l_bar}{bar}| {elapsed} {postfix}", disable=None)
    while (done := _fraction_done(plan, progress, n_steps)) < 1:
        _set_schedule(optimizer, done)
        batch = _batch(survey, rows, plan.seed, progress.step)
        generator = torch.Generator(device).manual_seed(plan.seed * 1_000_003 + progress.step)
        loss = _step(model, optimizer, [t.to(device) for t in batch], min(done / WARM_UP, 1.0), generator)
        progress.step += 1
        progress.elapsed_s = before_s + time.monotonic() - started
        progress.loss = loss if progress.step == 1 else 0.98 * progress.loss + 0.02 * loss
        bar.update(done - bar.n)
        bar.set_postfix_str(f"loss {progress.loss:.3f}", refresh=False)
        if progress.elapsed_s - saved_s > CHECKPOINT_S:
            _save(checkpoint, identity, model, optimizer, progress)
            saved_s = progress.elapsed_s
    bar.close()
    _save(checkpoint, identity, model, optimizer, progress)
    return model.vae.cpu().eval(), progress


def _fraction_done(plan: Plan, progress: Progress, n_steps: int) -> float:
    by_time = 0.0 if plan.max_minutes is None else progress.elapsed_s / (60 * plan.max_minutes)
    return max(progress.step / n_steps, by_time)


def _set_schedule(optimizer: torch.optim.Optimizer, done: float) -> None:
    """Linear rise of the learning rate, then a half cosine down to 1 %."""
    fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * max(done - WARM_UP, 0) / (1 - WARM_UP)))
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * min((done + 0.01) / WARM_UP, 1.0) * fall


def _batch(survey: Survey, rows: NDArray[np.intp], seed: int, step: int) -> tuple[Tensor, ...]:
    """Flux, ivar, z, group of one batch; each epoch is a new permutation given by seed and number."""
    per_epoch = max(len(rows) // BATCH, 1)
    epoch, at = divmod(step, per_epoch)
    order = _epoch_order(seed, epoch, len(rows))
    chosen = np.sort(rows[order[at * BATCH : (at + 1) * BATCH]])  # sorted: one sweep over the memory map
    z, group = usable_redshift(survey.table[chosen], np.array(Z_RANGE))
    arrays = (survey.flux[chosen], survey.ivar[chosen], z, group)
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, n: int) -> NDArray[np.intp]:
    """The order of n spectra in one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def _step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    batch: list[Tensor],
    kl_weight: float,
    generator: torch.Generator,
) -> float:
    """One step down the negative evidence lower bound per good pixel; returns it."""
    flux, ivar, z, group = batch
    flux, ivar = clean(flux, ivar)
    z = z[:, None]
    norm = norm_of(flux, ivar)
    flux, ivar = flux / norm, ivar * norm * norm
    condition = model.condition(z, group)
    mean, log_sigma = model.encode(flux, ivar, z, condition)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    latent = mean + log_sigma.exp() * noise
    of_mean, of_variance = model.pixels(z)
    (recon,) = model.means([latent], condition, of_mean)
    variance = model.variance(latent, condition, of_variance)
    good = (ivar > 0).to(flux.dtype)
    total = model.vae.log_noise.exp() / torch.where(ivar > 0, ivar, torch.ones_like(ivar)) + variance
    nll = negative_log_likelihood(flux - recon, total, good)
    n_good = good.sum(1).clamp(min=1.0)
    loss = ((nll + kl_weight * kl_divergence(mean, log_sigma)) / n_good).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _digest(survey: Survey, rows: NDArray[np.intp]) -> str:
    """What tells training spectra from others: the files' content and which rows of them."""
    digests = "".join(digest for _, _, digest in survey.files)
    return hashlib.sha256(digests.encode() + rows.tobytes()).hexdigest()


def _save(
    path: Path,
    identity: dict[str, Any],
    model: Model,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the checkpoint beside its name, then rename: a kill leaves the old one whole."""
    state: dict[str, Any] = {**identity, "progress": asdict(progress)}
    state |= {"vae": model.vae.state_dict(), "optimizer": optimizer.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _restore(
    path: Path, identity: dict[str, Any], model: Model, optimizer: torch.optim.Optimizer
) -> Progress:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["plan"] != identity["plan"]:
        raise StartupError(
            f"checkpoint {path} is of another plan ({state['plan']}): "
            "repeat those options, or leave --resume out"
        )
    # Petals that it has learned from might be held out now, and calibrate it.
    if state["spectra"] != identity["spectra"]:
        raise StartupError(
            f"checkpoint {path} is of other spectra: name the coadds that it began with, or leave --resume out"
        )
    model.vae.load_state_dict(state["vae"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
