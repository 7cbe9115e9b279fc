"""Anomalies made by instrument and reduction: each function builds one change of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from latenight.spectra import ARMS, N_PIX, PIXEL, WAVE
from latenight_train.observe import sky_variance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """A spectrum that shall receive an anomaly.

    Attributes:
        flux: (7958,) [1e-17 erg s-1 cm-2 A-1].
        ivar: (7958,), 0 in bad pixels.
        z: redshift.
        spectype: GALAXY, QSO or STAR.
        model: (7958,) its noise-free flux, true or estimated (smooth_model).
        donor: (7958,) noise-free flux of another fibre of the petal, for crosstalk; None if there is none.
    """

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    z: float
    spectype: str
    model: Array
    donor: Array | None = None


@dataclass(frozen=True)
class Change:
    """What an anomaly does to a spectrum.

    Attributes:
        delta: (7958,) added to the flux.
        parameters: what was drawn.
        ivar_factor: factor on ivar.
        z: new redshift, None if it stays.
        snr: significance, where it is not that of delta.
    """

    delta: Array
    parameters: dict[str, float] = field(default_factory=dict)
    ivar_factor: Array | float = 1.0
    z: float | None = None
    snr: float | None = None


def signal_to_noise(delta: NDArray[np.floating], ivar: NDArray[np.floating]) -> float:
    """Matched-filter S/N of a change of flux: sqrt(sum(delta^2 ivar))."""
    return float(np.sqrt(np.sum(np.square(delta) * ivar)))


def scaled(delta: Array, spectrum: Spectrum, snr: float, limit: float = np.inf) -> Array:
    """The change scaled to a matched-filter S/N, but by no more than a factor of limit."""
    unit = signal_to_noise(delta, spectrum.ivar)
    return delta * min(snr / max(unit, 1e-12), limit)


SMOOTHING = (3, 7, 15, 31, 63, 127, 255, 511)  # pixels
AGREEMENT = 4.0  # sigma of the narrower mean; 3 would take the noise of one pixel in 50 for a feature


def smooth_model(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> Array:
    """A noise-free version of a spectrum, (7958,): its running mean over the widest window that fits.

    Per pixel, the widest window whose mean agrees with those of all narrower ones (Lepskii 1991, Theory Probab.
    Appl. 35, 454): lines stay narrow, and a faint continuum keeps little of the noise, which kinds that scale the
    object's own light would otherwise magnify.
    """
    out = np.zeros(N_PIX)
    for arm in ARMS:
        sums = [_running(flux[arm.pixels] * ivar[arm.pixels], w) for w in SMOOTHING]
        weights = [np.maximum(_running(ivar[arm.pixels], w), 1e-12) for w in SMOOTHING]
        means = [total / weight for total, weight in zip(sums, weights, strict=True)]
        best, agrees = means[0], np.ones(arm.n, bool)
        for k in range(1, len(SMOOTHING)):
            for mean, weight in zip(means[:k], weights[:k], strict=True):
                agrees &= np.abs(means[k] - mean) * np.sqrt(weight) < AGREEMENT
            best = np.where(agrees, means[k], best)
        out[arm.pixels] = best
    return out


def _running(values: NDArray[np.float32], width: int) -> Array:
    """Sums over windows of an odd number of pixels around each pixel."""
    total = np.cumsum(np.pad(values.astype(float), (width // 2 + 1, width // 2)))
    return np.asarray(total[width:] - total[:-width])


def _sky_sigma() -> Array:
    return np.asarray(np.sqrt(sky_variance()[0]))


def _sign(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _good_pixel(rng: np.random.Generator, spectrum: Spectrum) -> int:
    return int(rng.choice(np.flatnonzero(spectrum.ivar)))


def _one_arm(array: Array, arm: int) -> Array:
    out = np.zeros(N_PIX)
    out[ARMS[arm].pixels] = array[ARMS[arm].pixels]
    return out


def cosmic(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A particle hit that was not masked: 1 to 4 pixels too high."""
    first, width = _good_pixel(rng, spectrum), int(rng.integers(1, 5))
    delta = np.zeros(N_PIX)
    good = spectrum.ivar[first : first + width] > 0.0
    # Half the sky noise of the pixel is the unit: the hit is in electrons, and so is the noise.
    delta[first : first + width] = (
        _sky_sigma()[first : first + width] * rng.uniform(0.3, 1.0, len(good)) * good
    )
    return Change(scaled(delta, spectrum, snr), {"wave": WAVE[first], "width": width})


def bad_column(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A column of the detector with a wrong level: 1 to 3 pixels, often too low, with a fainter tail."""
    first, width, sign = (
        _good_pixel(rng, spectrum),
        int(rng.integers(1, 4)),
        -1.0 if rng.random() < 0.6 else 1.0,
    )
    distance = np.maximum(np.abs(np.arange(N_PIX) - first - (width - 1) / 2) - (width - 1) / 2, 0.0)
    delta = sign * _sky_sigma() * np.exp(-distance / 0.4) * (distance < 5)
    return Change(scaled(delta, spectrum, snr), {"wave": WAVE[first], "width": width, "sign": sign})


def sky_residual(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Sky lines over- or undersubtracted, in one or two arms, sometimes in one band of lines only."""
    lines = sky_variance()[1] / _sky_sigma()
    sign, band = _sign(rng), float(rng.uniform(5500.0, 9800.0))
    width = float(rng.choice([1e5, rng.uniform(150.0, 900.0)]))
    strength = np.exp(-0.5 * ((WAVE - band) / width) ** 2)
    arms = [2] if rng.random() < 0.6 else [1, 2]
    delta = np.sum([_one_arm(sign * lines * strength, arm) for arm in arms], axis=0)
    return Change(scaled(delta, spectrum, snr), {"sign": sign, "band": band, "width": width})


def _step(rng: np.random.Generator, spectrum: Spectrum, snr: float, arm: int, edge: float) -> Change:
    """A gain error of one arm, whole or fading away from the edge; at most 60 %."""
    sign, length = _sign(rng), float(rng.choice([1e5, rng.uniform(200.0, 1200.0)]))
    gain = _one_arm(np.exp(-np.abs(WAVE - edge) / length), arm)
    shape = sign * gain * np.maximum(spectrum.model, 0.0)
    delta = scaled(shape, spectrum, snr, limit=0.6)
    reached = float(np.max(np.abs(delta)) / max(float(np.max(np.abs(shape))), 1e-12))
    return Change(delta, {"arm": arm, "gain": sign * reached, "length": length})


def step_br(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A step between the B and the R arm at 5780 A."""
    return _step(rng, spectrum, snr, int(rng.integers(2)), 5780.0)


def step_rz(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A step between the R and the Z arm at 7570 A."""
    return _step(rng, spectrum, snr, 1 + int(rng.integers(2)), 7570.0)


def amplifier_offset(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A wrong bias level over the half of an arm that one amplifier reads."""
    arm, side, sign = int(rng.integers(3)), int(rng.integers(2)), _sign(rng)
    middle = ARMS[arm].start + ARMS[arm].n // 2 + int(rng.integers(-40, 41))
    delta = sign * _one_arm(_sky_sigma(), arm)
    delta[slice(middle, None) if side == 0 else slice(0, middle)] = 0.0
    return Change(scaled(delta, spectrum, snr), {"arm": arm, "side": side, "sign": sign})


def negative_blue(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Too much sky or scattered light subtracted at the blue end."""
    length = float(np.exp(rng.uniform(np.log(150.0), np.log(800.0))))
    delta = -_one_arm(_sky_sigma() * np.exp(-(WAVE - 3600.0) / length), 0)
    return Change(scaled(delta, spectrum, snr), {"length": length})


def fringing(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Interference in the detector: waves of 25 to 120 A in one arm, strongest at one end or in a part."""
    arm = int(rng.choice([0, 1, 2], p=[0.15, 0.3, 0.55]))
    wave, period = ARMS[arm].wave, float(np.exp(rng.uniform(np.log(25.0), np.log(120.0))))
    phase = (wave - wave[0]) / period * (1.0 + rng.uniform(-0.1, 0.1) * np.linspace(0.0, 1.0, len(wave)))
    envelope = np.linspace(0.1, 1.0, len(wave))
    if rng.random() < 0.5:
        envelope = np.exp(-0.5 * ((wave - rng.choice(wave)) / rng.uniform(200.0, 700.0)) ** 2)
    delta = np.zeros(N_PIX)
    delta[ARMS[arm].pixels] = np.sin(2.0 * np.pi * phase + rng.uniform(0.0, 6.3)) * envelope
    return Change(scaled(delta * _sky_sigma(), spectrum, snr), {"arm": arm, "period": period})


def throughput_bump(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A broad hump or dip of the calibration inside one arm, at most 80 % of the flux."""
    arm, width, sign = int(rng.integers(3)), float(rng.uniform(60.0, 250.0)), _sign(rng)
    centre = float(rng.uniform(ARMS[arm].wave[0] + 150.0, ARMS[arm].wave[-1] - 150.0))
    hump = sign * _one_arm(np.exp(-0.5 * ((WAVE - centre) / width) ** 2), arm)
    delta = scaled(hump * np.maximum(spectrum.model, 0.0), spectrum, snr, limit=0.8)
    return Change(delta, {"arm": arm, "wave": centre, "width": width, "sign": sign})


def arm_shift(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """The wavelengths of one arm off by up to 3 pixels; its S/N is that of the noise-free flux, moved.

    The spectrum itself is moved, noise and all: a running mean has steps where the spectrum has lines (what moves it
    looked like what moves the truth to .06 to .5, median correlation at S/N 5 to 30), and they would be the anomaly.
    """
    arm, sign = ARMS[int(rng.integers(3))], _sign(rng)
    model, pixel = spectrum.model[arm.pixels], np.arange(arm.n, dtype=float)
    ivar = spectrum.ivar[arm.pixels]

    def moved(pixels: float) -> Array:
        return np.interp(pixel - sign * pixels, pixel, model) - model

    low, high = 0.0, 3.0
    if signal_to_noise(moved(high), ivar) > snr:
        for _ in range(25):  # bisection: the change grows with the shift
            middle = 0.5 * (low + high)
            low, high = (low, middle) if signal_to_noise(moved(middle), ivar) > snr else (middle, high)
    root = np.sqrt(ivar)
    residual = (spectrum.flux[arm.pixels] - model) * root
    change = _moved_noise(residual, sign * high) - residual
    delta, light = np.zeros(N_PIX), moved(high)
    delta[arm.pixels] = light + np.divide(change, root, out=np.zeros(arm.n), where=root > 0)
    parameters = {"arm": ARMS.index(arm), "pixels": sign * high, "angstrom": sign * high * PIXEL}
    return Change(delta, parameters, snr=signal_to_noise(light, ivar))


def _moved_noise(values: Array, pixels: float) -> Array:
    """Values moved by a part of a pixel, by a phase in Fourier space: white noise stays white, lines as they are."""
    phase = np.exp(-2j * np.pi * np.fft.rfftfreq(len(values)) * pixels)
    return np.asarray(np.fft.irfft(np.fft.rfft(values) * phase, len(values)))


def dead_block(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A block without light whose ivar claims that it was measured; 20 to 1200 pixels, as the S/N needs."""
    arm = ARMS[int(rng.integers(3))]
    first = arm.start + int(rng.integers(0, arm.n - 20))
    power = np.cumsum(spectrum.model[first : arm.pixels.stop] ** 2 * spectrum.ivar[first : arm.pixels.stop])
    length = int(np.clip(np.searchsorted(power, snr**2) + 1, 20, min(1200, len(power))))
    block = slice(first, first + length)
    delta = np.zeros(N_PIX)
    sigma = _sky_sigma()[block]
    delta[block] = rng.normal(0.0, 0.2, length) * sigma - spectrum.flux[block]
    reached = float(np.sqrt(power[length - 1]))
    return Change(delta, {"wave": WAVE[first], "length": length}, snr=reached)


def low_variance(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """A block of understated variance; its S/N is that of the chi2 it adds, (factor - 1) sqrt(n / 2)."""
    length = int(np.exp(rng.uniform(np.log(150.0), np.log(2000.0))))
    first = int(rng.integers(0, N_PIX - length))
    factor = np.ones(N_PIX)
    n_good = max(int(np.count_nonzero(spectrum.ivar[first : first + length])), 1)
    factor[first : first + length] = 1.0 + snr * np.sqrt(2.0 / n_good)
    parameters = {"wave": WAVE[first], "length": length, "factor": float(np.max(factor))}
    return Change(np.zeros(N_PIX), parameters, factor, snr=snr)


def crosstalk(rng: np.random.Generator, spectrum: Spectrum, snr: float) -> Change:
    """Light of a bright neighbour on the detector, in one arm or in all; a plain slope without donor.

    At most a third of the donor's light: no leak between fibres takes more, and the donor would be as strange.
    """
    donor, limit = spectrum.donor, 1.0 / 3.0
    if donor is None or signal_to_noise(donor, spectrum.ivar) < 1.0:
        donor, limit = (WAVE / 6000.0) ** rng.uniform(-3.0, 1.0), np.inf
    arm = int(rng.integers(4))
    light = np.maximum(donor, 0.0)
    delta = scaled(light if arm == len(ARMS) else _one_arm(light, arm), spectrum, snr, limit)
    return Change(delta, {"arm": arm})
