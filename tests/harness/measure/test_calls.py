"""The calls of a case, and the images that its quality takes over from them."""

from __future__ import annotations

import pytest
import torch

from arvbench.harness.jobs import Job, Part
from arvbench.harness.measure.calls import CaseCalls, drawn_batches, drawn_file
from arvbench.harness.measure.case import measure_case
from arvbench.harness.quality.images.drawn import keep_drawn, kept_drawn
from arvbench.harness.quality.images.live import live_source, load_case_sampler
from arvbench.results.schema import CaseConfig

QUALITY = {"protocols": ["digits-cnn"], "metrics": ["label-accuracy"], "reference": "digits", "images": 14, "seed": 3}


def job(folder, part=Part.SPEED, **changes) -> Job:
    fields = {
        "model": "demo/detailflow",
        "weights": "demo",
        "backend": "optimized",
        "batch": 4,
        "repeats": 2,
        "threads": 1,
    }
    case = CaseConfig(**(fields | {"max_warmup": 1, "quality": QUALITY} | changes))
    return Job(record_id="r1", case=case, folder=folder, part=part, run="r")


def calls(request, count):
    """The case's sampler, and the samples of its first calls, which are handed over."""
    sampler, settings = load_case_sampler(request.case)
    made = CaseCalls(request, sampler, settings)
    cache = made.make_cache()
    samples = [made(cache, None) for _ in range(count)]
    made.hand_over()
    return live_source(sampler, settings, request.case), samples


@pytest.fixture
def drawn(tmp_path):
    """Run folder and source of a case whose speed part made five calls: three whole batches, and two beyond 14."""
    return (tmp_path, *calls(job(tmp_path), 5))


def test_calls_draw_the_images_of_the_quality_request_and_hand_whole_batches_over(drawn):
    folder, source, samples = drawn
    left = drawn_batches(folder, source)
    assert sorted(left) == [0, 1, 2]
    wanted = source.read(0, source.count)
    for number, images in left.items():
        assert torch.equal(images, wanted[4 * number : 4 * number + 4])
        assert torch.equal(images, samples[number].images)


def test_a_source_returns_what_was_drawn_and_draws_the_rest(drawn, monkeypatch):
    folder, source, _ = drawn
    expected, fresh = source.read(0, source.count), live_source(source.sampler, source.settings, job(folder).case)
    fresh.drawn = drawn_batches(folder, fresh)
    made = []
    sample = type(source.sampler).sample
    monkeypatch.setattr(type(source.sampler), "sample", lambda *a, **k: made.append(len(a[1])) or sample(*a, **k))
    assert torch.equal(fresh.read(0, fresh.count), expected)
    assert made == [2], "the last two images"


def test_a_quality_part_has_the_numbers_of_a_whole_case(tmp_path):
    half = measure_case(job(tmp_path / "parts"), lambda event: None)
    assert len(list((tmp_path / "parts").rglob("drawn.safetensors"))) == 1
    second = job(tmp_path / "parts", part=Part.QUALITY).model_copy(update={"speed": half})
    whole = measure_case(job(tmp_path / "whole", part=Part.WHOLE), lambda event: None)
    assert measure_case(second, lambda event: None).outcome.quality == whole.outcome.quality
    assert not list((tmp_path / "whole").rglob("drawn.safetensors"))


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "random:0"},
        {"quality": None},
        {"quality": QUALITY | {"resize": "bicubic:16"}},
        {"quality": QUALITY | {"images": 3}},
    ],
    ids=["random weights", "no quality", "resized", "fewer than a batch"],
)
def test_nothing_is_kept_that_no_quality_part_can_use(tmp_path, changes):
    request = job(tmp_path, **changes)
    sampler, settings = load_case_sampler(request.case)
    made = CaseCalls(request, sampler, settings)
    samples = made(made.make_cache(), None)
    made.hand_over()
    assert len(samples.images) == 4 and not list(tmp_path.iterdir())


def test_images_beyond_the_bound_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("arvbench.harness.measure.calls.MOST_KEPT_BYTES", 2 * 4 * 3 * 32 * 32)
    source, _ = calls(job(tmp_path), 3)
    assert sorted(drawn_batches(tmp_path, source)) == [0, 1]


def test_another_case_or_another_number_of_threads_takes_no_images(drawn):
    folder, source, _ = drawn
    for changes in ({"backend": "reference"}, {"quality": QUALITY | {"seed": 4}}, {"settings": {"cfg": 2.0}}):
        request = job(folder, **changes)
        other = live_source(*load_case_sampler(request.case), request.case)
        assert drawn_batches(folder, other) == {}
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert drawn_batches(folder, source) == {}
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "gone", "folder"])
def test_a_damaged_file_is_as_good_as_none(drawn, damage):
    folder, source, _ = drawn
    path = drawn_file(folder, source)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        changed = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"cut": content[:-9], "byte": changed, "empty": b""}[damage])
    assert drawn_batches(folder, source) == {}
    assert source.read(0, 4).shape == (4, 3, 32, 32)


def test_files_of_other_keys_shapes_and_kinds_are_not_used(tmp_path):
    path, images = tmp_path / "a" / "drawn.safetensors", torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    keep_drawn(path, "key", {5: images})
    assert kept_drawn(path, "key", (2, 3, 4, 4))[5].equal(images)
    assert kept_drawn(path, "other", (2, 3, 4, 4)) == {} == kept_drawn(path, "key", (3, 3, 4, 4))
    keep_drawn(path, "key", {5: images.float()})
    assert kept_drawn(path, "key", (2, 3, 4, 4)) == {}
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")
    keep_drawn(path, "key", {5: images})
    assert kept_drawn(path, "key", (2, 3, 4, 4)) == {}
