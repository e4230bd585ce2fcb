"""Precision, recall, density and coverage against direct N x N computations, torch-fidelity and prdc-style code.

Where bits are compared the features are small integers or halves, so that fp32 sums are exact in any order.
"""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.machine.memory import ProcessMemoryProbe
from arvbench.harness.quality.metrics.neighbours import Arithmetic, Distances, density_coverage, precision_recall


def features(count: int, seed: int, dims: int = 24, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dims, generator=generator) + shift


def gridded(count: int, seed: int, dims: int = 24, step: float = 0.25, scale: float = 4.0) -> Tensor:
    """Features on a grid: products and sums of them are exact in fp32, and distances tie often."""
    return (features(count, seed, dims, scale) / step).round() * step


def squared_fp32(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    uu, vv = (u * u).sum(axis=1), (v * v).sum(axis=1)
    return np.maximum(uu[:, None] - 2 * (u @ v.T) + vv[None], 0)


def squared_fp16(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """NumPy's float16 for everything but the sums, which are accumulated in float32 and rounded."""
    with np.errstate(over="ignore", invalid="ignore"):
        u, v = u.astype(np.float16), v.astype(np.float16)
        uu, vv = ((x * x).astype(np.float32).sum(axis=1).astype(np.float16) for x in (u, v))
        uv = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
        out = np.maximum(uu[:, None] - np.float16(2) * uv + vv[None], np.float16(0))
    assert out.dtype == np.float16
    return out


def blocks_fp16(u: np.ndarray, v: np.ndarray, block: int) -> tuple[np.ndarray, list[bool]]:
    """fp32 matrix of the rule for blocks, and which blocks stayed in fp16."""
    out = np.empty((len(u), len(v)), np.float32)
    stayed = []
    for i in range(0, len(u), block):
        for j in range(0, len(v), block):
            rows, columns = u[i : i + block], v[j : j + block]
            half = squared_fp16(rows, columns)
            stayed.append(bool(np.isfinite(half).all()))
            out[i : i + block, j : j + block] = half if stayed[-1] else squared_fp32(rows, columns)
    return out, stayed


def precision_recall_of(distances, x: np.ndarray, y: np.ndarray, k: int) -> tuple[float, float]:
    """Precision and recall of samples x and reference y from whole matrices; `distances(u, v)` makes them."""
    radii_x = np.partition(distances(x, x), k, axis=1)[:, k]
    radii_y = np.partition(distances(y, y), k, axis=1)[:, k]
    between = distances(y, x)
    return (between <= radii_y[:, None]).any(axis=0).mean(), (between <= radii_x[None]).any(axis=1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [7, 50, 10_000])
def test_fp32_equals_all_pairs_at_once(k, block):
    x_ND, y_MD = gridded(130, 1), gridded(90, 2)
    result = precision_recall(x_ND, y_MD, k, distances=Distances("fp32", block=block))
    expected = precision_recall_of(squared_fp32, x_ND.numpy(), y_MD.numpy(), k)
    assert (result.precision, result.recall) == pytest.approx(expected, abs=1e-12)
    assert 0 < result.precision < 1


@pytest.mark.parametrize(
    ("function", "arithmetic"),
    [(precision_recall, "fp32"), (precision_recall, "fp16-blocks"), (density_coverage, "euclidean")],
)
def test_rows_of_a_block_are_cut_into_tiles_without_effect(function, arithmetic):
    x_ND, y_MD = gridded(130, 1), gridded(90, 2)
    whole, tiled = (Distances(arithmetic, block=60, tile=tile) for tile in (1024, 11))
    assert function(x_ND, y_MD, distances=tiled) == function(x_ND, y_MD, distances=whole)


def test_fp32_equals_torch_fidelitys():
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    x_ND, y_MD = features(300, 1, shift=0.2), features(250, 2)
    theirs = prc_features_to_metric(
        x_ND.double(), y_MD.double(), prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
    )
    result = precision_recall(x_ND, y_MD, distances=Distances("fp32", block=100))
    assert result.precision == pytest.approx(theirs[KEY_METRIC_PRECISION], abs=1e-6)
    assert result.recall == pytest.approx(theirs[KEY_METRIC_RECALL], abs=1e-6)
    assert 0 < result.precision < 1
    assert result.precision != result.recall


def test_plain_fp32_is_not_computed_in_a_wider_type():
    # At |u|^2 = 2^26 the step of fp32 is 8: a squared distance of 1 is lost, and the far sample counts as inside.
    far = 2.0**13
    y_MD = torch.tensor([[far, 0.0], [far, 0], [far, 0], [far, 0]])
    x_ND = torch.tensor([[far, 1.0]] * 4)
    assert precision_recall(x_ND, y_MD, distances=Distances("fp32")).precision == 1
    assert density_coverage(x_ND, y_MD, k=3).precision == 0


@pytest.mark.parametrize("block", [13, 50, 10_000])
@pytest.mark.parametrize("scale", [1.0, 4.0, 12.0])
def test_fp16_equals_all_pairs_at_once(block, scale):
    x_ND, y_MD = gridded(130, 1, scale=scale), gridded(90, 2, scale=scale)
    result = precision_recall(x_ND, y_MD, distances=Distances("fp16-blocks", block=block))
    expected = precision_recall_of(
        lambda u, v: blocks_fp16(u, v, block)[0].astype(np.float32), x_ND.numpy(), y_MD.numpy(), 3
    )
    assert (result.precision, result.recall) == pytest.approx(expected, abs=1e-12)


def test_fp16_distances_are_those_of_numpy_bit_for_bit():
    x_ND, y_MD = gridded(40, 1, scale=12.0), gridded(30, 2, scale=12.0)
    tiles = Distances("fp16-blocks", block=16).tiles(y_MD, x_ND)
    distances_MN = np.empty((30, 40), np.float32)
    for tile in tiles:
        distances_MN[tile.rows, tile.columns] = tile.distances_RC.numpy()
    expected, stayed = blocks_fp16(y_MD.numpy(), x_ND.numpy(), 16)
    assert all(stayed)
    np.testing.assert_array_equal(distances_MN, expected)
    assert not np.array_equal(distances_MN, squared_fp32(y_MD.numpy(), x_ND.numpy()))


def test_fp16_makes_ties_that_fp32_does_not_have():
    x_ND, y_MD = features(400, 1, dims=256, shift=0.05), features(400, 2, dims=256)
    rounded, plain = precision_recall(x_ND, y_MD), precision_recall(x_ND, y_MD, distances=Distances("fp32"))
    assert rounded.precision >= plain.precision
    assert rounded != plain


def large_in_one_block(norm: float) -> tuple[Tensor, Tensor]:
    """Samples whose numbers 20..29 are long; with blocks of 10, only the blocks of those can overflow."""
    x_ND, y_MD = gridded(40, 1), gridded(40, 2)
    x_ND[20:30, 0] += norm
    return x_ND, y_MD


@pytest.mark.parametrize(
    ("norm", "fallen"),
    [
        (60.0, []),  # all that is added up stays below 65504
        (200.0, []),  # 2 uv of two long images is infinite, minus infinity is clamped to 0, and 0 is finite
        (300.0, [2, 6, 10, 14]),  # the square of one feature overflows
        (1e5, [2, 6, 10, 14]),  # the feature itself overflows
    ],
)
def test_only_a_block_that_overflows_falls_back_to_fp32(norm, fallen):
    x_ND, y_MD = large_in_one_block(norm)
    expected, stayed = blocks_fp16(y_MD.numpy(), x_ND.numpy(), 10)
    assert [n for n, in_fp16 in enumerate(stayed) if not in_fp16] == fallen
    for tile in Distances("fp16-blocks", block=10).tiles(y_MD, x_ND):
        np.testing.assert_array_equal(tile.distances_RC.numpy(), expected[tile.rows, tile.columns])
    result = precision_recall(x_ND, y_MD, distances=Distances("fp16-blocks", block=10))
    by_matrix = precision_recall_of(lambda u, v: blocks_fp16(u, v, 10)[0], x_ND.numpy(), y_MD.numpy(), 3)
    assert (result.precision, result.recall) == pytest.approx(by_matrix, abs=1e-12)


@pytest.mark.parametrize("tile", [1024, 3], ids=["one tile", "several tiles"])
def test_one_overflowing_pair_sends_its_whole_block_to_fp32(tile):
    """Norms that fit in fp16, and two images so far apart that their distance does not."""
    y_MD, x_ND = gridded(20, 1), gridded(20, 2)
    y_MD[3], x_ND[14] = 0.0, 0.0
    y_MD[3, 0], x_ND[14, 0] = 170.0, -170.0  # squares 28900, distance 115600
    half = squared_fp16(y_MD.numpy(), x_ND.numpy())
    assert (~np.isfinite(half)).sum() == 1
    for block, in_fp16 in ((10, [True, False, True, True]), (20, [False])):
        expected, stayed = blocks_fp16(y_MD.numpy(), x_ND.numpy(), block)
        assert stayed == in_fp16
        for part in Distances("fp16-blocks", block=block, tile=tile).tiles(y_MD, x_ND):
            np.testing.assert_array_equal(part.distances_RC.numpy(), expected[part.rows, part.columns])


@pytest.mark.parametrize("arithmetic", ["fp16-blocks", "fp32"])
def test_a_distance_equal_to_the_radius_is_inside(arithmetic):
    # Balls on a line at 0, 1, 2, 3 with k = 3 reach 3, 2, 2, 3: an image at 6 is at the edge of the last.
    y_MD = torch.tensor([[0.0], [1], [2], [3]])
    at_edge, outside = torch.tensor([[6.0]] * 4), torch.tensor([[6.5]] * 4)
    assert precision_recall(at_edge, y_MD, distances=Distances(arithmetic)).precision == 1
    assert precision_recall(outside, y_MD, distances=Distances(arithmetic)).precision == 0
    assert precision_recall(y_MD, at_edge, distances=Distances(arithmetic)).recall == 1
    assert precision_recall(y_MD, outside, distances=Distances(arithmetic)).recall == 0
    # prdc's rule is <
    assert density_coverage(at_edge, y_MD, k=3).precision == 0
    assert density_coverage(at_edge - 0.5, y_MD, k=3).precision == 1
    assert density_coverage(y_MD, at_edge, k=3).recall == 0
    assert density_coverage(y_MD, at_edge - 0.5, k=3).recall == 1


def test_the_radius_is_the_kth_neighbour_without_itself():
    # Reference at 0, 1, 3, 7: third neighbours at 7, 6, 4, 7. With k = 1: 1, 1, 2, 4.
    y_MD = torch.tensor([[0.0], [1], [3], [7]])
    assert precision_recall(torch.tensor([[14.0]] * 4), y_MD, 3, distances=Distances("fp32")).precision == 1
    assert precision_recall(torch.tensor([[14.5]] * 4), y_MD, 3, distances=Distances("fp32")).precision == 0
    assert precision_recall(torch.tensor([[11.0]] * 4), y_MD, 1, distances=Distances("fp32")).precision == 1
    assert precision_recall(torch.tensor([[11.5]] * 4), y_MD, 1, distances=Distances("fp32")).precision == 0


def test_samples_come_first():
    """A narrow set of samples inside a wide reference: precise, without recall."""
    narrow_ND, wide_MD = features(100, 1, dims=2, scale=0.01), features(100, 2, dims=2)
    result = precision_recall(narrow_ND, wide_MD)
    assert result.precision == 1
    assert result.recall < 0.1


@pytest.mark.parametrize("arithmetic", ["fp16-blocks", "fp32"])
def test_equal_sets_cover_each_other(arithmetic):
    x_ND = features(60, 1)
    result = precision_recall(x_ND, x_ND.clone(), distances=Distances(arithmetic, block=17))
    assert (result.precision, result.recall) == (1, 1)


def test_k_plus_one_images_are_enough():
    x_ND, y_MD = gridded(4, 1), gridded(4, 2)
    result = precision_recall(x_ND, y_MD, distances=Distances("fp32", block=3))
    expected = precision_recall_of(squared_fp32, x_ND.numpy(), y_MD.numpy(), 3)
    assert (result.precision, result.recall) == pytest.approx(expected)


def by_prdc(y: np.ndarray, x: np.ndarray, k: int) -> dict[str, float]:
    """The published definitions on whole matrices, Euclidean distances of scikit-learn."""

    def radii(z: np.ndarray) -> np.ndarray:
        return np.sort(sklearn.metrics.pairwise_distances(z, z), axis=1)[:, k]

    real_fake = sklearn.metrics.pairwise_distances(y, x)
    inside_real = real_fake < radii(y)[:, None]
    return {
        "precision": inside_real.any(axis=0).mean(),
        "recall": (real_fake < radii(x)[None]).any(axis=1).mean(),
        "density": inside_real.sum(axis=0).mean() / k,
        "coverage": (real_fake.min(axis=1) < radii(y)).mean(),
    }


def far_away(count: int, seed: int, dims: int) -> Tensor:
    """Squares of 10^6 whose fp32 differences would be lost."""
    return features(count, seed, dims, shift=1000.0)


@pytest.mark.parametrize("make", [features, gridded, far_away])
@pytest.mark.parametrize("block", [11, 64, 10_000])
@pytest.mark.parametrize("k", [1, 5])
def test_prdc_equals_the_published_definitions(make, block, k):
    x_ND, y_MD = make(140, 1, 6), make(110, 2, 6)
    result = density_coverage(x_ND, y_MD, k, Distances("euclidean", block=block))
    expected = by_prdc(y_MD.numpy(), x_ND.numpy(), k)
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-12), name
    assert 0 < result.coverage < 1


def test_samples_of_the_references_distribution_have_density_one():
    # E density = 1 and E coverage = 1 - 2^-k for equal distributions (Naeem et al., section 3).
    result = density_coverage(features(2000, 1), features(2000, 2))
    assert result.density == pytest.approx(1, abs=0.06)
    assert result.coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_coverage_sees_the_dropped_mode_that_one_outlier_hides_from_recall():
    # The reference has two clusters, the samples one of them and a single image far beyond the other.
    y_MD = torch.cat([features(50, 1, dims=2), features(50, 2, dims=2) + 20])
    x_ND = torch.cat([features(99, 3, dims=2), torch.tensor([[60.0, 60.0]])])
    result = density_coverage(x_ND, y_MD)
    assert result.recall > 0.95
    assert result.coverage <= 0.5


@pytest.mark.parametrize("function", [precision_recall, density_coverage])
def test_unusable_features_are_refused(function):
    good = features(10, 1)
    with pytest.raises(UserError, match="at least 4 samples, there are 3"):
        function(good[:3], good, 3)
    with pytest.raises(UserError, match="at least 4 reference images, there are 3"):
        function(good, good[:3], 3)
    with pytest.raises(UserError, match="samples have 24 feature dimensions and the reference 23"):
        function(good, good[:, :23], 3)
    with pytest.raises(UserError, match="at least 1 neighbour, not 0"):
        function(good, good, 0)
    bad = good.clone()
    bad[2, 3], bad[7, 0] = torch.nan, torch.inf
    with pytest.raises(UserError, match="features of 2 of 10 samples are NaN or infinite"):
        function(bad, good, 3)
    with pytest.raises(UserError, match="features of 2 of 10 reference images are NaN or infinite"):
        function(good, bad, 3)


def peak_above_features(count: int, arithmetic: Arithmetic) -> int:
    """Bytes that precision and recall need beside `count` samples and 10,000 reference images."""
    x_ND, y_MD = features(count, 1, dims=64), features(10_000, 2, dims=64)
    probe = ProcessMemoryProbe()
    probe.release_unused()
    probe.begin_phase()
    before = probe.in_use_bytes()
    precision_recall(x_ND, y_MD, distances=Distances(arithmetic))
    peak = probe.peak_bytes()
    if before is None or peak is None:
        pytest.skip("this system does not tell the peak of a process")
    return peak - before


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["fp16-blocks", "fp32"])
def test_memory_does_not_grow_with_the_number_of_images(arithmetic):
    """A matrix of all pairs of 30,000 samples would be 3.6 GB; few dimensions, so that it takes seconds."""
    precision_recall(features(10, 1), features(10, 2), distances=Distances(arithmetic))  # loads what is loaded once
    peaks = [peak_above_features(count, arithmetic) for count in (12_000, 30_000)]
    assert max(peaks) < 512 * 2**20
    assert peaks[1] - peaks[0] < 64 * 2**20
