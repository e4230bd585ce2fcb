"""Numbers in settings from outside: pydantic would read yes and true as 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationInfo


def refuse_booleans(model: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """Return `value`; raise a validation error for true or false in a field that takes neither."""
    if isinstance(value, bool) and info.field_name is not None:
        annotation = model.model_fields[info.field_name].annotation
        if bool not in (annotation, *get_args(annotation)):
            raise PydanticCustomError("boolean", "yes, no, true and false have no meaning here")
    return value
