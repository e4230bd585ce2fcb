"""Records for figures of what no ordinary run has: published numbers, budgets of tokens, sizes of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from records import GPU, adm_numbers, quality_numbers, record

from arvbench.results.schema import Quality, QualityRequest, Record


def official(*, number: int = 1, changes: dict[str, Any] | None = None, **options: Any) -> Record:
    """Make a record of VAR-d16 by the official recipe: 50,000 samples, FID 3.55. `changes` are of the FID."""
    given = {"weights": "hub", "recipe": "official"} | options
    quality = QualityRequest(protocols=("adm-v1",), reference="VIRTUAL_imagenet256_labeled.npz", images=50_000)
    made = record("var-d16", number=number, gpu=GPU, **given)
    numbers = adm_numbers(made.case.model_copy(update={"quality": quality}))
    numbers = tuple(
        one.model_copy(update={"protocol_name": "adm-v1", **(changes or {} if one.metric == "fid" else {})})
        for one in numbers
    )
    return made.model_copy(update={"outcome": made.outcome.model_copy(update={"quality": numbers})})


def of_tokens(
    number: int, tokens: int | None, quality: tuple[Quality, ...] = (), *, cfg: float = 1.5, **options: Any
) -> Record:
    """Make a case with the setting `tokens`."""
    asked = {"tokens": tokens, "cfg": cfg}
    quality = quality or quality_numbers(np.random.default_rng(0))
    made = record("demo/var", number=number, weights="demo", quality=quality, settings=asked, **options)
    setup = made.outcome.setup.model_copy(update={"settings": asked})
    return made.model_copy(update={"outcome": made.outcome.model_copy(update={"setup": setup})})


def sized(number: int, model: str, px: int, **settings: Any) -> Record:
    """Make a case with images of `px` pixels."""
    made = record(model, number=number, speed=px / 256, settings=settings)
    setup = made.outcome.setup.model_copy(update={"image_px": px})
    return made.model_copy(update={"outcome": made.outcome.model_copy(update={"setup": setup})})


def own_records(first: int) -> list[Record]:
    """Make records with data for all of these figures, numbered from `first`."""
    rng = np.random.default_rng(2)
    return [
        official(number=first),
        official(number=first + 1, changes={"value": 4.2, "interval": (4.1, 4.3)}, settings={}, batch=8),
        *(_named(of_tokens(first + 2 + n, each, quality_numbers(rng)), f"{each}") for n, each in enumerate((4, 8, 16))),
        *(
            _named(sized(first + 5 + n, "flexvar-d16", px, scales=[px // 64]), f"{px}")
            for n, px in enumerate((256, 512))
        ),
    ]


def _named(record: Record, more: str) -> Record:
    """Give a case a name of its own: of one name, a report shows the newest record alone."""
    return record.model_copy(update={"case_id": f"{record.case_id} {more}"})
