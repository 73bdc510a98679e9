"""What a network computes in: autocast to a recipe's precision."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bf16 or fp16; with float32 a context that changes nothing.

    For the whole process float32 is float32: torch lets a GPU's convolutions compute it in TF32, of which
    the products have 10 bits in place of 23.
    """
    torch.backends.cudnn.allow_tf32 = False
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision in DTYPES)


def has_fast_bf16() -> bool:
    """Whether this CPU computes bf16 faster than float32, by torch's own rule: AVX-512, or an ARM's.

    Where it does not, a step of interferogram-small takes 14 times as long as in float32 (measured).
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
