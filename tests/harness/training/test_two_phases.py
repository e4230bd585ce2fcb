from __future__ import annotations

import torch
import torch.nn.functional as F
from tiny_models import tiny_dar

from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.dar.tokenizer import DarTokenizer
from arvbench.adapters.pixels import from_uint8
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.training.reproducible import reproducible
from arvbench.harness.training.transformer import own_initial_values
from arvbench.harness.training.two_phases import TwoPhaseSettings, start_codebook, train_in_two_phases


def untrained() -> DarTokenizer:
    tokenizer = DarTokenizer(tiny_dar().tokenizer)
    tokenizer.load_state_dict(random_tensors(tokenizer, 0, torch.device("cpu")))
    tokenizer.load_state_dict(own_initial_values(tokenizer), strict=False)
    return tokenizer


def test_codes_start_at_the_centres_of_the_vectors():
    quantize = untrained().quantize
    draw = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(6, 8, generator=draw), dim=1)
    vectors = F.normalize(centres.repeat(50, 1) + 0.01 * torch.randn(300, 8, generator=draw), dim=1)
    start_codebook(quantize, vectors, draw)
    codes = quantize.embedding.weight
    assert (codes @ centres.T).max(dim=0).values.min() > 0.99
    assert (codes @ centres.T).max(dim=1).values.min() > 0.99


def test_codes_of_the_first_phase_differ_between_images_and_the_second_keeps_them():
    images = from_uint8(load_digits_rgb().images_N3HW[:32, :, ::4, ::4])
    tokenizer, after_epoch = untrained(), []
    with reproducible(0):
        losses = train_in_two_phases(
            tokenizer,
            images,
            TwoPhaseSettings(codes_epochs=20, codes_batch=16, epochs=12, batch=16, patches=2),
            order=torch.Generator().manual_seed(0),
            progress=lambda *_: after_epoch.append(tokenizer.encode(images)),
        )
    assert not torch.equal(after_epoch[0], after_epoch[19])
    assert len(after_epoch[19].unique(dim=0)) > 20
    assert torch.equal(after_epoch[19], tokenizer.encode(images))
    assert losses["codes_losses"][-1] < 0.5 * losses["codes_losses"][0]
    assert losses["tokenizer_losses"][-1] < 0.8 * losses["tokenizer_losses"][0]
    assert not tokenizer.training


def test_patches_are_trained_at_their_places():
    tokenizer, images = untrained(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokenizer.load_state_dict(random_tensors(tokenizer, 1, torch.device("cpu")))
    codes = tokenizer.quantize.lookup(tokenizer.encode(images), (1, 8))
    loss = tokenizer.decoding_loss(images, codes, patches=4, draw=torch.Generator().manual_seed(0))

    draw, config = torch.Generator().manual_seed(0), tokenizer.config
    chosen, steps = torch.randperm(4, generator=draw), torch.randint(4, (4,), generator=draw)
    row = F.pixel_unshuffle(torch.randn(4, 3, 4, 16, generator=draw), 4)[:, :, 0]
    noise = F.pixel_shuffle(torch.empty_like(row).index_copy(2, chosen, row).unflatten(2, (2, 2)), 4)
    errors = []
    for image, start, step, conditions in zip(images, noise, steps.tolist(), tokenizer.conditions(codes), strict=True):
        time, first = config.times()[step], config.first_seen(step / 4)
        goal, seen = config.data_std * image, conditions[first : first + config.queries_per_step]
        velocity = tokenizer.net((start + time * (goal - start))[None], torch.tensor([time]), seen[None])[0]
        errors.append((velocity - (goal - start)) / config.data_std)
    torch.testing.assert_close(loss, torch.stack(errors).square().mean())
