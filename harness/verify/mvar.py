"""Replay of M-VAR fixtures: VAR's outputs, and the inputs, outputs and states of the Mamba-2 mixers.

The reference backend replays the official way (cache policy `history`), the optimized one carries states (`state`).

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, C width, K code channels
"""

from __future__ import annotations

import torch

from arvbench.harness.verify.next_scale import ReplayedRun, scale_outputs
from arvbench.harness.verify.replay import Outputs, numbered, prefixed

WATCHED = r"word_embed|blocks\.\d+(\.mamba)?"


def scale_and_mixer_outputs(run: ReplayedRun) -> Outputs:
    """Return the outputs of a run; the mixers' under the names of both kinds of fixture."""
    outputs = scale_outputs(run)
    for step, (codes_BlK, _) in zip(run.steps[1:], run.calls["word_embed"], strict=True):
        outputs[f"next_map.{step.index - 1}"] = codes_BlK.transpose(1, 2).unflatten(2, step.map_side)
    new_tokens = [step.new_tokens for step in run.steps]
    for block, name in enumerate(name for name in run.calls if name.endswith(".mamba")):
        calls = run.calls[name]
        states = [state for _, (_, state) in calls]
        # The official way repeats earlier tokens in every call; the new ones are the last.
        mixer = {
            "in": torch.cat([x[:, -new:] for new, (x, _) in zip(new_tokens, calls, strict=True)], dim=1),
            "out": torch.cat([out[:, -new:] for new, (_, (out, _)) in zip(new_tokens, calls, strict=True)], dim=1),
            "conv_state": states[-1].conv_RMK,
            "ssm_state": states[-1].ssm_RHPN,
        }
        outputs |= {f"mamba{block}_{part}": tensor for part, tensor in mixer.items()}
        mixer["block_out"] = torch.cat([out for _, out in run.calls[name.removesuffix(".mamba")]], dim=1)
        mixer |= numbered("conv_state", [state.conv_RMK for state in states])
        mixer |= numbered("ssm_state", [state.ssm_RHPN for state in states])
        outputs |= prefixed(f"mamba.{block}", mixer)
    return outputs
