"""The statistics of pass 2: normal where the model holds, large where a fault is, blind to what the model explains."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from latenight.channels import PASS2
from latenight.modes import REGIONS, ModeGroup, weights_of
from latenight.spectra import ARMS, N_PIX, WAVE
from latenight_train.blocks import INSIDE, N_STACKED, stacked, window_sums
from latenight_train.hidden import discs, explosions
from latenight_train.miscalibration import SKY_BANDS
from latenight_train.modes import N_COLUMNS, N_MODES, QUIET
from latenight_train.second import SIZE
from latenight_train.statistics import Statistics
from latenight_train.whitener import Whitener

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = [statistic.name for statistic in PASS2]
STATISTICS = Statistics().eval()
GRID = np.array([np.log(3500.0), 1e3])


def columns() -> np.ndarray:
    """Modes that are smooth waves over 3500 to 10500 A in steps of 1e-3, all quiet."""
    bins = np.arange(1102)
    waves = [np.cos(np.pi * k * bins / 1101) for k in range(4)]
    out = np.zeros((len(bins), N_COLUMNS), np.float32)
    out[:, :4], out[:, N_MODES + QUIET] = np.stack(waves, axis=1), 1
    return out


def light(wave: np.ndarray) -> np.ndarray:
    """A model with features of two pixels' width and broad ones."""
    return np.asarray(3 + np.sin(wave / 300) + 0.5 * np.sin(wave / 3))


def inputs(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Spectra with unit noise around a model of 3 sigma per pixel; the sky's lines stand out."""
    rng = np.random.default_rng(seed)
    mean = np.tile(light(WAVE), (n, 1)).astype(np.float32)
    sky = np.where(np.arange(N_PIX) % 97 < 4, 2.0, 1.0)
    return {
        "flux": (mean + rng.standard_normal((n, N_PIX))).astype(np.float32),
        "ivar": np.ones((n, N_PIX), np.float32),
        "z": np.zeros(n, np.float32),
        "mean": mean,
        "variance": np.full((n, N_PIX), 1e-6, np.float32),
        "sky": np.tile(sky, (n, 1)).astype(np.float32),
        "beside": np.tile(5 + np.sin(WAVE / 200 + 1), (n, 1)).astype(np.float32),
        "norm": np.full(n, 3, np.float32),
        "coefficients": np.zeros((n, N_MODES), np.float32),
    }


ONE_REGION = {
    "centres": np.zeros((N_MODES + 1, 1), np.float32),
    "expected": np.zeros((1, N_MODES), np.float32),
    "precisions": np.eye(N_MODES, dtype=np.float32).reshape(1, -1),
}


def statistics(
    rows: dict[str, np.ndarray],
    modes: np.ndarray | None = None,
    regions: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    unit = np.eye(N_MODES, dtype=np.float32)
    weights = weights_of(columns() if modes is None else modes, GRID, unit) | (regions or ONE_REGION)
    group = ModeGroup("GALAXY", 0, 1, weights).given(*REGIONS)
    with torch.inference_mode():
        values, waves = STATISTICS(*(torch.from_numpy(v) for v in (*rows.values(), *group.values())))
    return values.numpy(), waves.numpy()


@cache
def ordinary() -> np.ndarray:
    """Statistics of spectra in which nothing is wrong."""
    return statistics(inputs(120))[0]


def of(values: np.ndarray, name: str) -> np.ndarray:
    return values[:, NAMES.index(name)]


def test_single_patterns_are_standard_normal_on_noise() -> None:
    """Faults and lines that take no maximum have mean 0 and variance 1 where the model holds."""
    names = [s.name for s in PASS2 if s.sign == 0]
    assert len(names) > 20
    for name in names:
        t = of(ordinary(), name)
        assert abs(t.mean()) < 0.3, name
        # The priors let calibration modes take a part of what they imitate, never more than there is.
        assert 0.5 < t.std() < 1.15, name


def test_mean_squares_are_one_on_noise() -> None:
    """Mean square residuals of pixels and of blocks are 1 in every arm."""
    for name in ("chi2", "scatter", "block16", "block64", "block256", "chi2_b", "chi2_r", "chi2_z"):
        assert of(ordinary(), name).mean() == pytest.approx(1, abs=0.1), name


# Between two of the patterns: light of a supernova and of a disc, 1 at their brightest.
EXPLOSION, DISC = (
    (shapes[:, 0] + shapes[:, 1]) / (shapes[:, 0] + shapes[:, 1]).max()
    for shapes in (explosions(WAVE), discs(WAVE))
)
FAULTS: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "offset_b_low": lambda x: np.where((WAVE < 4730) & (np.arange(N_PIX) < 2751), 0.4, 0),
    "skylines_r": lambda x: np.where((x["sky"][0] > 1) & (np.arange(N_PIX) // 2751 == 1), 1.0, 0),
    "scan1+": lambda x: np.where(np.arange(N_PIX) == 4000, 12.0, 0),
    "scan4-": lambda x: np.where(np.abs(np.arange(N_PIX) - 6000.5) < 2, -6.0, 0),
    "noise256+": lambda x: np.where(np.abs(np.arange(N_PIX) - 1000) < 128, 3 * (-1.0) ** np.arange(N_PIX), 0),
    "white128+": lambda x: np.where(np.abs(np.arange(N_PIX) - 4000) < 64, 1.2, 0),
    "fringe_z": lambda x: np.where(np.arange(N_PIX) >= 5077, 0.8 * np.sin(np.arange(N_PIX) / 6), 0),
    "edge300_r_low": lambda x: np.where(
        np.arange(N_PIX) // 2751 == 1, 0.15 * light(WAVE) * np.exp(-np.abs(WAVE - 5780) / 300), 0
    ),
    "lineset": lambda x: np.sum(
        [3 * np.exp(-0.5 * ((WAVE - line) / 1.2) ** 2) for line in (3728.5, 4862.7, 5008.2, 6564.6)], axis=0
    ),
    "crosstalk_r": lambda x: np.where(np.arange(N_PIX) // 2751 == 1, 0.1 * (5 + np.sin(WAVE / 200 + 1)), 0),
    "shift_z": lambda x: np.where(np.arange(N_PIX) >= 5077, light(WAVE + 0.8) - light(WAVE), 0),
    "explosion": lambda x: 1.5 * EXPLOSION,
    "disc": lambda x: 1.0 * DISC,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_its_own_statistic(name: str) -> None:
    """The statistic of a fault is far beyond those of ordinary spectra when the fault is there."""
    rows = inputs(20, seed=3)
    rows["flux"] = (rows["flux"] + FAULTS[name](rows)).astype(np.float32)
    values, waves = statistics(rows)
    assert np.median(np.abs(of(values, name))) > np.quantile(np.abs(of(ordinary(), name)), 0.99)
    if name == "scan1+":
        np.testing.assert_allclose(of(waves, name), WAVE[4000], atol=0.01)


def test_lines_may_miss_their_strength_by_a_part_of_it() -> None:
    """A line that is 15 % stronger than its model by 12 sigma is ordinary; the same excess without a line is not."""
    at = np.abs(WAVE - 6400) < 6

    def strongest(line: float) -> float:
        rows = inputs(20, seed=5)
        rows["mean"][:, at] += line
        rows["flux"] = (rows["flux"] + np.where(at, line + 4.0, 0)).astype(np.float32)
        return float(np.median(of(statistics(rows)[0], "scan16+")))

    assert strongest(0.0) > 10
    assert strongest(27.0) < 5


def test_what_modes_and_calibration_explain_is_no_anomaly() -> None:
    """A mode in a spectrum, and a gain of an arm by 1 %, change no statistic by more than a few tenths."""
    rows = inputs(20, seed=4)
    expected, _ = statistics(rows)
    at = (np.log(WAVE) - GRID[0]) * GRID[1]
    mode = np.interp(at, np.arange(1102), columns()[:, 2])
    rows["flux"] = (rows["flux"] + 0.5 * mode + np.where(WAVE < 5700, 0.03, 0)).astype(np.float32)
    found, _ = statistics(rows)
    for name in ("white256+", "white1024-", "offset_r_low", "block64", "chi2"):
        assert np.abs(of(found, name) - of(expected, name)).max() < 0.6, name


def test_errors_of_sky_lines_that_fibres_have_of_their_own_are_allowed_for() -> None:
    """Three prior widths of light on a band of sky lines are less than 3 sigma; broad windows do not even see ten."""
    rows = inputs(20, seed=6)
    band = (np.arange(N_PIX) >= ARMS[2].start) & (np.abs(WAVE - 9450) < 150)
    rows["sky"][:, band & (np.random.default_rng(6).random(N_PIX) < 0.3)] = 4.0
    inside = torch.from_numpy(INSIDE)
    lines = STATISTICS.solve.line_excess(stacked(torch.from_numpy(rows["sky"][:1])) * inside)
    at_arms = lines[0, inside > 0].numpy()

    def median(name: str, widths: float) -> float:
        light = widths * SKY_BANDS * np.where(band, at_arms, 0)
        changed = {**rows, "flux": (rows["flux"] + light).astype(np.float32)}
        return float(np.median(of(statistics(changed)[0], name)))

    assert 0.5 < median("skylines_z", 3) < 3  # 5.5 if the lines were exact
    assert median("white256+", 10) < median("white256+", 0) + 1.5  # 4.8 more


def test_garbage_in_bad_pixels_does_not_matter() -> None:
    """Flux under ivar 0 changes no statistic, and a dead arm leaves all finite but what it alone would show."""
    rows = inputs(5, seed=5)
    rows["ivar"][:, ARMS[0].pixels] = 0
    expected, _ = statistics(rows)
    rows["flux"][:, ARMS[0].pixels] = 1e6
    found, _ = statistics(rows)
    np.testing.assert_array_equal(found, expected)
    missing = {name for name, value in zip(NAMES, np.isnan(expected).any(axis=0), strict=True) if value}
    assert {"gain_b", "shift_b", "offset_b_low", "skylines_b"} <= missing
    assert not any(name.endswith(("_r", "_z")) for name in missing)


def test_restless_windows_are_missing_where_no_restless_bin_is_seen() -> None:
    """Of restless bins around 9000 A at rest a spectrum at z = 0 has statistics, one at z = 0.2 none."""
    modes, rest = columns(), np.exp(GRID[0] + np.arange(1102) / GRID[1])
    modes[np.abs(rest - 9000) < 30, N_MODES + QUIET] = 0
    rows = inputs(2)
    rows["z"][1] = 0.2
    found, waves = statistics(rows, modes)
    for name in ("restless+", "restless-"):
        assert np.isfinite(of(found, name)[0])
        assert abs(of(waves, name)[0] - 9000) < 40
        assert np.isnan(of(found, name)[1])


def test_the_whitener_inverts_the_system() -> None:
    """R'R is the inverse of a positive definite matrix of mixed scales, to 1e-4."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 200, SIZE)) * 10 ** rng.uniform(-2, 2, SIZE)
    system = x.transpose(0, 2, 1) @ x + np.eye(SIZE)
    r = Whitener(SIZE)(torch.from_numpy(system).float()).double().numpy()
    product = r @ system @ r.transpose(0, 2, 1)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(SIZE), product.shape), atol=2e-3)


def test_window_sums_are_sums_over_windows() -> None:
    """Each width's windows hold the sums of as many neighbouring elements, a quarter of the width apart."""
    values = torch.arange(3 * 70, dtype=torch.float32).reshape(1, 3, 70).square()
    for width, (found, step) in zip((2, 4, 8, 16), window_sums(values, (2, 4, 8, 16)), strict=True):
        direct = values.unfold(2, width, step).sum(3)
        assert step == max(width // 4, 1)
        np.testing.assert_allclose(found[:, :, : direct.shape[2]], direct, rtol=1e-6)


def test_stacking_keeps_the_pixels_of_each_arm() -> None:
    """Inside the arms, stacked values are those of the arms in order."""
    found = stacked(torch.from_numpy(WAVE)[None].expand(2, -1))
    assert found.shape == (2, N_STACKED)
    np.testing.assert_array_equal(found[1, torch.from_numpy(INSIDE) > 0].numpy(), WAVE)


def test_a_region_decides_what_the_modes_may_explain() -> None:
    """A mode's light is seen where ordinary spectra near by hardly have it, and is not where they all do."""
    rows = inputs(40)
    light_of_mode = (
        3 * 0.5 * np.cos(np.pi * (np.log(WAVE) - GRID[0]) * GRID[1] / 1101)
    )  # coefficient 0.5, norm 3
    rows["flux"] += light_of_mode.astype(np.float32)
    tight = 1e4 * np.eye(N_MODES, dtype=np.float32).reshape(1, -1)
    used = np.zeros((1, N_MODES), np.float32)
    used[0, 1] = 0.5
    chi2 = {}
    for name, changed in {
        "free": {},
        "never": {"precisions": tight},
        "always": {"precisions": tight, "expected": used},
    }.items():
        chi2[name] = np.median(of(statistics(rows, regions=ONE_REGION | changed)[0], "block256"))
    assert chi2["free"] == pytest.approx(1, abs=0.15)
    assert chi2["always"] == pytest.approx(1, abs=0.15)
    assert chi2["never"] > 1.5


def test_a_spectrum_belongs_to_the_nearest_region() -> None:
    """Statistics are those of the region whose centre lies nearest to the coefficients of pass 1."""
    rows = inputs(4)
    rows["coefficients"][:, 0] = [-2, -0.4, 0.3, 5]
    two = {name: np.concatenate([v, v], axis=int(name == "centres")) for name, v in ONE_REGION.items()}
    two["centres"][0], two["centres"][-1] = [-2, 2], [-1, -1]  # at -1 and 1
    two["precisions"] = two["precisions"] * np.array([[1], [100]], np.float32)
    alone = [
        statistics(rows, regions=ONE_REGION | {"precisions": two["precisions"][k : k + 1]})[0]
        for k in range(2)
    ]
    found = statistics(rows, regions=two)[0]
    np.testing.assert_allclose(found[:2], alone[0][:2], rtol=1e-5, equal_nan=True)
    np.testing.assert_allclose(found[2:], alone[1][2:], rtol=1e-5, equal_nan=True)


def test_the_end_of_an_arm_is_no_sky_line() -> None:
    """A sky without lines has no excess of lines anywhere, ends of arms included."""
    sky = stacked(torch.ones(1, N_PIX)) * torch.from_numpy(INSIDE)
    assert STATISTICS.solve.line_excess(sky).abs().max() == 0
