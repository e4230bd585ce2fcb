"""The table of models: one line per model, imported on first use.

Other distributions add models through the entry-point group "arvbench.models"; each entry names a ModelSpec.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from arvbench.adapters.sampler import ModelSpec

_BUILT_IN = {
    "demo/var": "arvbench.adapters.var:DEMO",
    "var-d16": "arvbench.adapters.var:VAR_D16",
    "var-d20": "arvbench.adapters.var:VAR_D20",
    "var-d24": "arvbench.adapters.var:VAR_D24",
    "var-d30": "arvbench.adapters.var:VAR_D30",
    "var-d36": "arvbench.adapters.var:VAR_D36",
    "demo/mvar": "arvbench.adapters.mvar.sampler:DEMO",
    "mvar-d12": "arvbench.adapters.mvar.sampler:MVAR_D12",
    "mvar-d16": "arvbench.adapters.mvar.sampler:MVAR_D16",
    "mvar-d20": "arvbench.adapters.mvar.sampler:MVAR_D20",
    "mvar-d24": "arvbench.adapters.mvar.sampler:MVAR_D24",
    "mvar-d30": "arvbench.adapters.mvar.sampler:MVAR_D30",
    "mvar-d32": "arvbench.adapters.mvar.sampler:MVAR_D32",
    "demo/hmar": "arvbench.adapters.hmar.sampler:DEMO",
    "hmar-d16": "arvbench.adapters.hmar.sampler:HMAR_D16",
    "hmar-d20": "arvbench.adapters.hmar.sampler:HMAR_D20",
    "hmar-d24": "arvbench.adapters.hmar.sampler:HMAR_D24",
    "hmar-d30": "arvbench.adapters.hmar.sampler:HMAR_D30",
    "hmar-d24-512": "arvbench.adapters.hmar.sampler:HMAR_D24_512",
    "hmar-d30-512": "arvbench.adapters.hmar.sampler:HMAR_D30_512",
    "hmar-d36-512": "arvbench.adapters.hmar.sampler:HMAR_D36_512",
    "hmar-d24-1024": "arvbench.adapters.hmar.sampler:HMAR_D24_1024",
    "demo/llamagen": "arvbench.adapters.llamagen:DEMO",
    "llamagen-b-256": "arvbench.adapters.llamagen:LLAMAGEN_B_256",
    "llamagen-b-384": "arvbench.adapters.llamagen:LLAMAGEN_B_384",
    "llamagen-l-256": "arvbench.adapters.llamagen:LLAMAGEN_L_256",
    "llamagen-l-384": "arvbench.adapters.llamagen:LLAMAGEN_L_384",
    "llamagen-xl-384": "arvbench.adapters.llamagen:LLAMAGEN_XL_384",
    "llamagen-xxl-384": "arvbench.adapters.llamagen:LLAMAGEN_XXL_384",
    "llamagen-3b-384": "arvbench.adapters.llamagen:LLAMAGEN_3B_384",
    "demo/nar": "arvbench.adapters.nar:DEMO",
    "nar-b": "arvbench.adapters.nar:NAR_B",
    "nar-m": "arvbench.adapters.nar:NAR_M",
    "nar-l": "arvbench.adapters.nar:NAR_L",
    "nar-xl": "arvbench.adapters.nar:NAR_XL",
    "nar-xxl": "arvbench.adapters.nar:NAR_XXL",
    "demo/par": "arvbench.adapters.par:DEMO",
    "par-xl-4x-384": "arvbench.adapters.par:PAR_XL_4X_384",
    "par-xxl-4x-384": "arvbench.adapters.par:PAR_XXL_4X_384",
    "par-3b-4x-384": "arvbench.adapters.par:PAR_3B_4X_384",
    "par-3b-16x-384": "arvbench.adapters.par:PAR_3B_16X_384",
    "demo/detailflow": "arvbench.adapters.detailflow.sampler:DEMO",
    "detailflow-l-128": "arvbench.adapters.detailflow.sampler:DETAILFLOW_L_128",
    "detailflow-l-256": "arvbench.adapters.detailflow.sampler:DETAILFLOW_L_256",
    "detailflow-l-512": "arvbench.adapters.detailflow.sampler:DETAILFLOW_L_512",
    "demo/dar": "arvbench.adapters.dar.sampler:DEMO",
    "dar-l": "arvbench.adapters.dar.sampler:DAR_L",
    "dar-xl": "arvbench.adapters.dar.sampler:DAR_XL",
    "demo/flexvar": "arvbench.adapters.flexvar.sampler:DEMO",
    "flexvar-d16": "arvbench.adapters.flexvar.sampler:FLEXVAR_D16",
    "flexvar-d20": "arvbench.adapters.flexvar.sampler:FLEXVAR_D20",
    "flexvar-d24": "arvbench.adapters.flexvar.sampler:FLEXVAR_D24",
    "demo/xar": "arvbench.adapters.xar.models:DEMO",
    "xar-b": "arvbench.adapters.xar.models:XAR_B",
    "xar-l": "arvbench.adapters.xar.models:XAR_L",
    "xar-h": "arvbench.adapters.xar.models:XAR_H",
    "demo/flowar": "arvbench.adapters.flowar.models:DEMO",
    "flowar-s": "arvbench.adapters.flowar.models:FLOWAR_S",
    "flowar-l": "arvbench.adapters.flowar.models:FLOWAR_L",
    "flowar-h": "arvbench.adapters.flowar.models:FLOWAR_H",
    "demo/mar": "arvbench.adapters.mar.models:DEMO",
    "mar-b": "arvbench.adapters.mar.models:MAR_B",
    "mar-l": "arvbench.adapters.mar.models:MAR_L",
    "mar-h": "arvbench.adapters.mar.models:MAR_H",
    "demo/himar": "arvbench.adapters.himar.models:DEMO",
    "himar-b": "arvbench.adapters.himar.models:HIMAR_B",
    "himar-l": "arvbench.adapters.himar.models:HIMAR_L",
    "himar-h": "arvbench.adapters.himar.models:HIMAR_H",
}


def _complaint(name: str, spec: object) -> str:
    """Return what is wrong with the spec of a plug-in; "" for nothing."""
    from arvbench.adapters.sampler import ModelSpec

    if not isinstance(spec, ModelSpec):
        return f"it is of type {type(spec).__name__}, not a ModelSpec"
    if spec.name != name:
        return f"its spec has the name {spec.name!r}: the entry point and the spec must have one name"
    if spec.demo and name in PLUG_INS:
        return "its spec has demo=True, which is for weights inside arvbench: write demo=False"
    return ""


# A built-in name wins over an entry point of equal name, so that a model is never replaced silently.
PLUG_INS = {point.name: point.value for point in entry_points(group="arvbench.models") if point.name not in _BUILT_IN}
"""Models of other distributions: name -> "module:attribute"."""
MODELS: Registry[ModelSpec] = Registry("model", _BUILT_IN | PLUG_INS, _complaint)
