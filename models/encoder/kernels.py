"""What a layer computes with: matrix products with their weights laid out, and norms of sums.

On a GPU they may be *fused*: what follows a product or a sum is computed before it leaves the chip. Of a pass of
BERT-base that saves a quarter (measured on an H200).
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear


class Numerics(NamedTuple):
    """In what matrices and attention compute, and whether kernels are fused."""

    dtype: torch.dtype
    fused: bool = False


class States(NamedTuple):
    """(T, E) twice: in float32, for sums and norms, and as matrices read it."""

    exact: Tensor
    rounded: Tensor


class Dense:
    """x Wᵀ + b in one type, with the W of several layers at once, laid out as oneDNN wants it where it can."""

    def __init__(self, *layers: nn.Linear, dtype: torch.dtype) -> None:
        self._weight = torch.cat([layer.weight for layer in layers]).to(dtype)
        self._bias = torch.cat([layer.bias for layer in layers]).to(dtype)
        self._prepared = _has_kernels(self._weight)
        if self._prepared:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)  # noqa: SLF001 (torch.compile's own way; there is no public one)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, in) → (T, out)."""
        if self._prepared:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]  # noqa: SLF001 (see above)
        return linear(x, self._weight, self._bias)

    def gelu(self, x: Tensor) -> Tensor:
        """(T, in) → (T, out): the GELU of the product. On a GPU, in one kernel, that of Hendrycks & Gimpel's tanh.

        It is within .0005 of the exact one (arXiv:1606.08415); bfloat16 rounds what is near 1 by up to .004.
        """
        return torch._addmm_activation(self._bias, x, self._weight.t(), use_gelu=True)  # noqa: SLF001 (cuBLASLt's epilogue has no public name)


class Norm:
    """The layer norm of a sum."""

    def __init__(self, norm: nn.LayerNorm, *, fused: bool) -> None:
        self._norm = norm
        self._normed = _compiled() if fused else _normed

    def __call__(self, more: Tensor, x: Tensor) -> States:
        """(T, E) in the type of matrices, and in float32."""
        norm = self._norm
        return States(*self._normed(more, x, norm.weight, norm.bias, norm.eps))


def _normed(more: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = more.to(x.dtype, copy=True).add_(x)  # a sum of two types takes a processor twice as long
    exact = layer_norm(wide, weight.shape, weight, bias, eps)
    return exact, exact.to(more.dtype)


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    """The same as one kernel of five; its first call wants a C compiler, and takes seconds."""
    return torch.compile(_normed, dynamic=True, options={"compile_threads": 1})  # one kernel: no pool of processes


def _has_kernels(weight: Tensor) -> bool:
    """Whether oneDNN computes in this type on this processor."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:  # noqa: SLF001 (as torch asks itself)
        return False
    return weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 (as above)
