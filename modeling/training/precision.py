"""Which half precision a device is fast and safe in."""

import torch
from transformers.utils import is_torch_bf16_gpu_available


def instead_of_fp16() -> torch.dtype:
    """bf16 where the GPU multiplies it by itself, as NVIDIA's do from Ampere on; else fp32."""
    if torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = is_torch_bf16_gpu_available()
    return torch.bfloat16 if has_bf16 else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices faster than fp32 ones: by AMX, or an AMD by AVX512-BF16.

    By AVX512-BF16 a Xeon takes twice as long as in fp32, and an EPYC a quarter of it (docs/speed.md).
    """
    cpu = torch.cpu.get_capabilities()
    is_amd = str(cpu.get("cpu_name", "")).startswith("AMD")
    return bool(cpu.get("amx_bf16") or (is_amd and cpu.get("avx512_bf16")))
