"""Which number format a block computes in."""

import torch

from kit.errors import check_name

PRECISIONS = ("auto", "fp32", "bf16")


def resolve(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast type for `precision` on `device`, None for plain fp32.

    `auto` takes bf16 where the processor multiplies it in hardware (AMX or AVX512-BF16, CUDA from Ampere on): there it
    is about twice as fast. Elsewhere bf16 is emulated and slower than fp32.
    """
    check_name("precision", precision, PRECISIONS)
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = device.type == "cpu" and (has_amx() or _can("avx512_bf16"))
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and has_units) else None


def has_amx() -> bool:
    """Say whether the processor has matrix units for bf16 (Intel AMX)."""
    return _can("amx_bf16")


def _can(what: str) -> bool:
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get(what))
