"""Sampling settings that all families share, and the names of uint8 rules."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from arvbench.errors import UserError, complaint
from arvbench.numbers import refuse_booleans

Uint8Rule = Literal["truncate", "round", "127.5x+128"]
"""Conversion from float to byte (`arvbench.adapters.pixels.to_uint8`)."""


class SamplingSettings(BaseModel):
    """Settings of token sampling. Families add fields; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cfg: float = Field(ge=0, description="classifier-free guidance strength; 0 samples the conditional model")
    top_k: int | None = Field(default=None, ge=1, lt=2**31, description="keep the k most likely tokens; None keeps all")
    top_p: float | None = Field(default=None, gt=0, le=1, description="nucleus mass to keep; None keeps all")
    uint8_rule: Uint8Rule = "truncate"

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, value, info)

    def replayable(self) -> Self:
        """Return settings that allow replay: later logits depend on earlier draws only through the token ids."""
        return self

    def replace(self, /, **changes: Any) -> Self:
        """Return the settings with `changes`, validated (unlike `model_copy`). UserError names the invalid key."""
        try:
            return type(self).model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise UserError(complaint(error, {"": type(self).model_fields})) from error
