"""Replay of fixtures of the families with continuous tokens.

Their runs draw normal noise: from torch's generator, or from its name in the fixture ("recipe"), which needs none.

Shapes   B images, R forward rows, l tokens of one step, L tokens of all steps, K latent channels, h w latent sides
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import KVCache
from arvbench.adapters.call import Samples, StepOutput
from arvbench.adapters.latents.sampler import LatentSampler, TrainingDraw
from arvbench.adapters.sampling import Noise, PerImageNoise, UpstreamNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.tokenizers.kl import KlConfig
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.generated_weights import check_sizes, normal_v1, recipe_v1
from arvbench.harness.verify.replay import Call, FamilyReplay, Outputs, Recorder, Run, Tolerances, prefixed, recorded


class NamedDraw(NamedTuple):
    """A recorded draw, of which a draw here has as many rows as there are images."""

    name: str
    """After "in.noise.RUN."."""
    first: int
    """First of our rows in it."""
    rows: int


DrawName = Callable[[int, int], NamedDraw]
"""(number of a normal draw in its call, images) -> the recorded draw that it is a part of."""


class RecipeNoise(PerImageNoise):
    """Normal noise generated from the names of the draws, and the orders of the fixture."""

    def __init__(self, fixture: Fixture, prefix: str, name: DrawName) -> None:
        images = len(fixture.inputs["labels"])
        super().__init__(0, range(images))
        self._seed_string, self._prefix, self._name = str(fixture.description["seed_string"]), prefix, name
        self._orders = fixture.description["inputs"].get("orders", [])

    def normal(self, like_BX: Tensor, step: int) -> Tensor:
        name, first, rows = self._name(step, len(like_BX))
        drawn = normal_v1(self._seed_string, f"{self._prefix}.{name}", (rows, *like_BX.shape[1:]))
        return torch.from_numpy(drawn[first : first + len(like_BX)]).to(like_BX)

    def normals(self, like_BX: Tensor, steps: range, *, at_once: int = 1) -> Iterator[Tensor]:
        return (self.normal(like_BX, step) for step in steps)

    def orders(self, images: int, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        """Return the fixture's orders: all of an image follow each other in one list, counted on."""
        parts = torch.tensor(self._orders, device=device).split(sizes, dim=1)
        return tuple(part_Bn - sum(sizes[:number]) for number, part_Bn in enumerate(parts))


class KeptNoise:
    """Another noise, whose draws are kept."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self.normals: dict[int, Tensor] = {}
        """Number of a draw -> the draw."""
        self.drawn_orders: tuple[Tensor, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._noise, name)

    def normal(self, like_BX: Tensor, step: int) -> Tensor:
        """Draw, and keep it."""
        self.normals[step] = self._noise.normal(like_BX, step)
        return self.normals[step]

    def orders(self, images: int, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        """Draw, and keep them."""
        self.drawn_orders = self._noise.orders(images, sizes, device)
        return self.drawn_orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One recorded run, sampled again."""

    samples: Samples
    calls: Mapping[str, list[Call]]
    """Calls of the `watched` modules."""
    settings: Any
    steps: Sequence[Step]
    outputs: Sequence[StepOutput]
    noise: KeptNoise


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentReplay(FamilyReplay):
    """Replay of one family with continuous tokens; a subclass knows its draws and its inner states."""

    tolerances: Tolerances = ()
    tokenizer: type[Any] = KlConfig
    no_effect: frozenset[str] = frozenset({"mlp_ratio", "resolution", "downsample"})
    fixed: Mapping[str, Any] = field(default_factory=lambda: {"patch_size": 1})
    watched: str
    """Modules of the transformer whose calls give the inner states."""
    blocks: str = r"(encoder|decoder)_blocks\.\d+"
    """Modules after which the residual stream of the training pass is recorded."""

    @abstractmethod
    def draw_name(self, sampler: Any, settings: Any) -> DrawName:
        """Return the names of the draws of a run."""

    @abstractmethod
    def inner_outputs(self, done: Sampled) -> Outputs:
        """Return the states inside the steps, and the number of passes."""

    def settings_of(self, fixture: Fixture, run: Run) -> Any:
        """Return our settings for a run, by default of its own arguments alone."""
        return self.run_settings(run)

    def training_outputs(self, calls: Mapping[str, list[Call]]) -> Outputs:
        """Return what the calls of the `watched` modules add to the training pass."""
        return {}

    def run_outputs(self, sampler: LatentSampler, fixture: Fixture, run: Run) -> Outputs:
        settings, labels = self.settings_of(fixture, run), fixture.inputs["labels"]
        # The recordings hold the rows that only the official code computes.
        sampler.official = True
        name = next(name for name, other in fixture.runs.items() if other is run)
        noise: Noise = UpstreamNoise(run["torch_seed"] or 0, order_seed=run.get("numpy_seed"))
        if run["noise"] == "recipe":
            noise = RecipeNoise(fixture, f"in.noise.{name}", self.draw_name(sampler, settings))
        noise, recorder = KeptNoise(noise), Recorder()
        cache = cast(KVCache, sampler.make_cache(None, settings, batch=len(labels)))
        with recorded(sampler.modules()["transformer"], self.watched) as calls:
            samples = sampler.sample(labels, settings, noise=noise, cache=cache, observer=recorder)
        done = Sampled(
            samples=samples,
            calls=calls,
            settings=settings,
            steps=recorder.steps,
            outputs=recorder.outputs,
            noise=noise,
        )
        keys = [_keys(cache, layer) for layer in range(cache.shape.layers)]
        return {
            "latents": sampler.join(torch.cat(samples.tokens, dim=1)),
            "image": samples.decoded * 2 - 1,
            **({"k_cache": torch.stack(keys)} if keys else {}),
            **self.inner_outputs(done),
        }

    @abstractmethod
    def training_pass(self, sampler: Any, fixture: Fixture) -> Outputs:
        """Return the outputs of the training pass, or of what can run of it."""

    @torch.no_grad()
    def pass_outputs(self, sampler: LatentSampler, fixture: Fixture) -> Outputs:
        return prefixed("tf", self.training_pass(sampler, fixture)) | prefixed("vae", _tokenizer(sampler, fixture))

    def trained(self, sampler: LatentSampler, fixture: Fixture, draw: TrainingDraw) -> Outputs:
        """Return the outputs of the training pass under `draw`, and what its `watched` calls add."""
        draw = replace(draw, times=draw.times.to(sampler.device), noise_BLK=draw.noise_BLK.to(sampler.device))
        latents_BKhw = input_of(fixture, fixture.description["inputs"]["tf"]["latents"])
        tokens = sampler.split(latents_BKhw.to(sampler.device))
        labels_B = sampler.check_labels(fixture.inputs["labels"])
        model = sampler.modules()["transformer"]
        with recorded(model, self.blocks) as blocks, recorded(model, self.watched) as calls:
            done = sampler.training_pass(tokens, labels_B, draw)
        hidden = torch.stack([output for ((_, output),) in blocks.values()])
        return {
            "velocity": done.predicted,
            "hidden": hidden,
            "loss": done.loss().view(1),
            **self.training_outputs(calls),
        }


def velocity_draw(fixture: Fixture, times_Bn: Tensor) -> TrainingDraw:
    """Return the draw of a training pass of velocities: these times, and the noise of all groups of tokens."""
    given = fixture.description["inputs"]["tf"]["noise"]
    return TrainingDraw(times=times_Bn, noise_BLK=torch.cat([input_of(fixture, entry) for entry in given], dim=1))


def _tokenizer(sampler: LatentSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of the VAE."""
    images, noise_BKhw = fixture.inputs["image"], input_of(fixture, fixture.description["inputs"]["posterior_noise"])
    latents_BKhw = sampler.tokenizer.sampled(images.to(sampler.device), noise_BKhw.to(sampler.device))
    moments = sampler.tokenizer.moments(images.to(sampler.device))
    return {
        "moments": torch.cat(moments, dim=1),
        "latents": latents_BKhw,
        "recon": sampler.tokenizer.decode_map(latents_BKhw),
    }


def _keys(cache: KVCache, layer: int) -> Tensor:
    """Keys (R, H, T, D) that a layer keeps."""
    shape = cache.shape
    nothing = torch.empty(shape.rows, shape.heads, 0, shape.head_dim, dtype=shape.dtype, device=shape.device)
    return cache.extend(layer, nothing, nothing)[0]


def input_of(fixture: Fixture, entry: Any) -> Tensor:
    """Generate an input from its entry: normals, or values in a range."""
    seed_string = fixture.description["seed_string"]
    name, shape, *bounds = entry["normal_v1"] if isinstance(entry, dict) else entry
    check_sizes([shape])
    return torch.from_numpy(
        recipe_v1(seed_string, name, shape, *bounds) if bounds else normal_v1(seed_string, name, shape)
    )
