"""Sampling settings that all families share, and the names of uint8 rules."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arvbench.errors import UserError, complaint

Uint8Rule = Literal["truncate", "round", "127.5x+128"]
"""Rule by which a float becomes a byte (`arvbench.adapters.pixels.to_uint8`)."""


class SamplingSettings(BaseModel):
    """Settings of the draw of tokens. Families add their own fields; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cfg: float = Field(ge=0, description="classifier-free guidance strength; 0 samples the conditional model")
    top_k: int | None = Field(default=None, ge=1, description="keep the k most likely tokens; None keeps all")
    top_p: float | None = Field(default=None, gt=0, le=1, description="nucleus mass to keep; None keeps all")
    uint8_rule: Uint8Rule = "truncate"

    def replayable(self) -> Self:
        """Return settings under which the drawn tokens alone decide all later logits, so that they can be replayed."""
        return self

    def replace(self, /, **changes: Any) -> Self:
        """Return the settings with `changes`, checked (`model_copy` checks nothing). UserError names the key."""
        try:
            return type(self).model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise UserError(complaint(error, {"": type(self).model_fields})) from error
