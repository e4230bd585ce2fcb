"""The table of trainings: one entry per name of `arvbench train`, with its settings and its stages."""

from __future__ import annotations

from arvbench.errors import UnknownName
from arvbench.harness.training import Training
from arvbench.harness.training.classifier import ClassifierTraining
from arvbench.harness.training.demo import DemoTraining
from arvbench.harness.training.stages import DemoSettings, every_scale, next_scale_then_refinement, random_scales
from arvbench.harness.training.tokenizer import TokenizerSettings
from arvbench.harness.training.transformer import TransformerSettings
from arvbench.harness.training.two_phases import TwoPhaseSettings

# Token-grid transformers have no adaLN: the class reaches a token through attention only. They start with larger
# weights, and need more images to learn it.
_TOKEN_GRID = DemoSettings(
    tokenizer=TokenizerSettings(epochs=3),
    transformer=TransformerSettings(epochs=16, initial_std=0.05),
    shifts=((0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)),
)
_HMAR = DemoSettings(refinement=TransformerSettings(epochs=6))
_FLEXVAR = DemoSettings(
    tokenizer=TokenizerSettings(epochs=5, sides=(8, 8, 8, 8, 8, 8, 2, 3, 4, 6)),
    transformer=TransformerSettings(initial_std=0.05),
)

# A denoiser sees an image at one noise level in every step: it needs many more of them than a transformer on ids.
_LATENTS = DemoSettings(
    tokenizer=TokenizerSettings(epochs=2, batch=8),
    transformer=TransformerSettings(epochs=28),
    shifts=((0, 0),),
)

# Masked models see the class through attention alone, as token grids do. Those before train the same tokenizer.
_MASKED = DemoSettings(
    tokenizer="demo/xar",
    transformer=TransformerSettings(epochs=20, initial_std=0.1),
    shifts=((0, 0),),
)

# A transformer as tokenizer learns more slowly than convolutions; half of its steps restore from the first latents.
_DETAILFLOW = DemoSettings(
    tokenizer=TokenizerSettings(epochs=20, sides=(16, 16, 16, 4, 8, 12)),
    transformer=TransformerSettings(epochs=16, initial_std=0.05),
)
_DAR = DemoSettings(tokenizer=TwoPhaseSettings(), transformer=TransformerSettings(epochs=10, initial_std=0.05))
_TRAININGS: tuple[Training, ...] = (
    DemoTraining(name="demo/var"),
    DemoTraining(name="demo/mvar"),
    DemoTraining(name="demo/hmar", settings=_HMAR, stages=next_scale_then_refinement),
    DemoTraining(name="demo/flexvar", settings=_FLEXVAR, stages=random_scales, encoded_with=every_scale),
    DemoTraining(name="demo/detailflow", settings=_DETAILFLOW),
    DemoTraining(name="demo/dar", settings=_DAR),
    DemoTraining(name="demo/nar", settings=_TOKEN_GRID),
    DemoTraining(name="demo/llamagen", settings=_TOKEN_GRID),
    DemoTraining(name="demo/par", settings=_TOKEN_GRID),
    DemoTraining(name="demo/xar", settings=_LATENTS),
    DemoTraining(name="demo/flowar", settings=_LATENTS),
    DemoTraining(name="demo/mar", settings=_MASKED),
    DemoTraining(name="demo/himar", settings=_MASKED),
    ClassifierTraining(),
)
TRAININGS = {training.name: training for training in _TRAININGS}


def training_named(name: str) -> Training:
    """Return an entry of the table. Raises UnknownName."""
    if name not in TRAININGS:
        raise UnknownName("training", name, TRAININGS)
    return TRAININGS[name]
