"""Records of a search, made up."""

from __future__ import annotations

import numpy as np
import records as make

from arvbench.results.schema import Record, SearchRequest, Status

_BATCHES = (1, 8, 4, 2)


def search_records(model: str = "demo/var", first: int = 0, **options) -> list[Record]:
    """Four tries over the batch, of which the third is best and the second fails, and a confirmation."""
    made = []
    for number, batch in enumerate((*_BATCHES, 4), start=1):
        confirmation = number == 5
        request = SearchRequest(objective="images/s", over={"batch": (1, 2, 4, 8)}, budget=4, confirm=True,
                                number=3 if confirmation else number, tries=4, confirmation=confirmation)  # fmt: skip
        name = f"{model} optimized b{batch} float32 cpu search(images/s,batch)" + " confirmation" * confirmation
        fields = {"weights": "demo", "number": first + number, "batch": batch, "search": request, "case_id": name}
        quality = make.quality_numbers(np.random.default_rng(number))
        if number == 2:
            made.append(make.failed(Status.OOM, "out of memory: made up", model=model, **fields, **options))
        else:
            speed = 0.2 if number == 3 else 3.0
            made.append(make.record(model, speed=speed, quality=quality, **fields, **options))
    return made
