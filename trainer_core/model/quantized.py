"""Products in the format that a frozen weight is stored in: fp8, int8 and nvfp4, where ComfyUI multiplies in it too.

Forward, the input is quantised as ComfyUI quantises it when it samples, and the product is ComfyUI's own: what is
trained is the network that samples, but that nothing is clamped. Backward, where ComfyUI has nothing to be equal to,
the gradient is quantised as well: to fp8 E4M3 with one scale for the tensor, or to int8 with a scale for each token.
Its products go through the same kernels with the weight transposed.

Whether a layer can do this is found out once, by trying, and never while training.

Shapes: I in, O out, M tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor, get_layout_class
from torch import Tensor, nn

from . import host
from .frozen import FrozenLinear, Product
from .host import ComfyModule
from .network import Network

FORMATS = ("float8_e4m3fn", "int8_tensorwise", "nvfp4")
"""ComfyUI's names for what Ideogram 4 is released in."""
MAX_TRIAL_ERROR = 0.3
"""Relative error of a product beyond which its kernel is taken to be broken. fp8 has 0.03, int8 0.01, nvfp4 0.1."""
MAX_VELOCITY_ERROR = 0.2
"""`velocity_error` beyond which a model should not be trained with these products: its values leave their range."""
_ALIGNMENT = 16
_INT8, _FP8, _NVFP4 = "TensorWiseINT8Layout", "TensorCoreFP8E4M3Layout", "TensorCoreNVFP4Layout"
_LARGEST = {_FP8: 448.0, _NVFP4: 448.0 * 6.0}
"""Largest magnitude at a scale of 1; that of nvfp4 is of its block scales times its values."""
_TRIAL_TOKENS = 33


@dataclasses.dataclass(frozen=True)
class QuantizedUse:
    """How many linear layers multiply in their weights' format, and why the others do not."""

    forward: int
    backward: int
    exact: Mapping[str, int]
    """Layers by the reason for which all of their products stay exact."""

    def __str__(self) -> str:
        reasons = "; ".join(f"{count} {reason}" for reason, count in self.exact.items())
        if not self.forward:
            return f"All products are exact: {reasons}."
        back = "only" if not self.backward else f"and {self.backward} of them backward"
        if self.backward == self.forward:
            back = "and backward"
        rest = f" Exact: {reasons}." if reasons else ""
        return f"{self.forward} layers multiply in their weight's own format, forward {back}.{rest}"


@torch.no_grad()
def use_quantized_products(network: nn.Module, device: torch.device, dtype: torch.dtype) -> QuantizedUse:
    """Let every `FrozenLinear` below `network` that can do so multiply in its weight's format. Changes no weight.

    `device` and `dtype` are what the network computes on and in. Call it when the model is loaded and its patches are
    in place. Calling it again gives the same.
    """
    forward = backward = 0
    exact: Counter[str] = Counter()
    outcomes: dict[Any, tuple[str, str]] = {}
    for layer in (module for module in network.modules() if isinstance(module, FrozenLinear)):
        layer.quantized_product = layer.quantized_input_gradient = None
        reason = _obstacle(layer, device)
        if not reason:
            product, input_gradient = _products(layer.base, device)
            kind = _kind(layer.base)
            if kind not in outcomes:
                outcomes[kind] = _try(layer, product, device, dtype), _try_back(layer, input_gradient, device, dtype)
            reason, reason_back = outcomes[kind]
            if not reason:
                layer.quantized_product, forward = product, forward + 1
                if not reason_back:
                    layer.quantized_input_gradient, backward = input_gradient, backward + 1
        if reason:
            exact[reason] += 1
    return QuantizedUse(forward, backward, exact)


@contextmanager
def exact_products(network: nn.Module) -> Iterator[None]:
    """Exact products in all layers below `network` for a while."""
    layers = [module for module in network.modules() if isinstance(module, FrozenLinear)]
    before = [(layer.quantized_product, layer.quantized_input_gradient) for layer in layers]
    for layer in layers:
        layer.quantized_product = layer.quantized_input_gradient = None
    try:
        yield
    finally:
        for layer, products in zip(layers, before, strict=True):
            layer.quantized_product, layer.quantized_input_gradient = products


def use_exact_products(network: nn.Module) -> None:
    """Take back what `use_quantized_products` did."""
    for layer in (module for module in network.modules() if isinstance(module, FrozenLinear)):
        layer.quantized_product = layer.quantized_input_gradient = None


@torch.no_grad()
def velocity_error(network: Network, noised: Tensor, sigma: Tensor, text: Tensor, text_mask: Tensor | None) -> float:
    """How far the predicted velocity is from that of exact products, relative to it. Arguments as for `velocity`.

    It says for the model and the data at hand what the tests say for tiny ones.
    """
    found = network.velocity(noised, sigma, text, text_mask)
    with exact_products(network.module):
        exact = network.velocity(noised, sigma, text, text_mask)
    return ((found - exact).norm() / exact.norm()).item()


# ---- which layers --------------------------------------------------------------------------------------------


def _obstacle(layer: FrozenLinear, device: torch.device) -> str:
    """Why ComfyUI would not multiply in this layer's format on this device, or ""."""
    base, weight = layer.base, layer.weight
    if not isinstance(weight, QuantizedTensor) or base.quant_format not in FORMATS:
        return f"not stored as {', '.join(FORMATS)}"
    if base.weight_function or base.bias_function:
        return "with another LoRA that is added as they are used"
    if getattr(base, "_full_precision_mm_config", False) or getattr(base, "comfy_force_cast_weights", False):
        return "kept exact by the file or by ComfyUI"
    if base._full_precision_mm or (device.type == "cuda" and not weight.layout_cls.supports_fast_matmul()):
        return f"without {base.quant_format} products on this device"
    if layer.in_features % _ALIGNMENT or layer.out_features % _ALIGNMENT:
        return f"of sizes that are no multiples of {_ALIGNMENT}"
    return ""


def _kind(base: ComfyModule) -> tuple[Any, ...]:
    """What decides whether a product runs: layers alike in this need only one trial."""
    constants = tuple(
        value.numel() if isinstance(value, Tensor) else value
        for value in (getattr(base.weight._params, f.name) for f in dataclasses.fields(base.weight._params))
    )
    return base.quant_format, base.bias is None, *constants


def _try(layer: FrozenLinear, product: Product, device: torch.device, dtype: torch.dtype) -> str:
    x = _trial_values(layer.in_features, device, dtype)
    input_scale = getattr(layer.base, "input_scale", None)
    if input_scale is not None:
        # Of the size that the file's scale is made for: 448 of it are the largest number.
        x = x * (64 * input_scale.to(device, dtype))
    return _verdict(layer, lambda: product(layer.smoothed(x), None), lambda: layer.product(x), "")


def _try_back(layer: FrozenLinear, input_gradient: Product | None, device: torch.device, dtype: torch.dtype) -> str:
    if input_gradient is None:
        return "no product"
    grad = _trial_values(layer.out_features, device, dtype)
    found = functools.partial(input_gradient, grad, None)
    return _verdict(layer, lambda: layer.smoothed(found()), lambda: layer.input_gradient(grad), " backward")


def _verdict(layer: FrozenLinear, quantized: Callable[[], Tensor], exact: Callable[[], Tensor], where: str) -> str:
    try:
        found = quantized()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        # What torch raises for a format, shape or device that it has no kernel for.
        if host.is_out_of_memory(error):
            raise
        return f"without {layer.base.quant_format} products{where} on this device"
    wanted = exact()
    distance = (found - wanted).norm() / wanted.norm()
    return "" if distance < MAX_TRIAL_ERROR else f"with wrong {layer.base.quant_format} products{where} on this device"


def _trial_values(width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(_TRIAL_TOKENS, width, generator=draw).to(device, dtype)


# ---- the products --------------------------------------------------------------------------------------------


def _products(base: ComfyModule, device: torch.device) -> tuple[Product, Product | None]:
    """`x @ W.T + b` and, where the format has one, `grad @ W`."""
    quantize = _as_it_is
    if QUANT_ALGOS[base.quant_format].get("quantize_input", True):
        scale = getattr(base, "input_scale", None)
        # Copied once: the module's own may be in main memory, and fetching a number waits for the device.
        scale = scale.detach().to(device) if scale is not None else _default_input_scale(base, device)
        quantize = functools.partial(_quantize, base.layout_type, scale)
    product = functools.partial(_product, base, quantize)
    if base.quant_format == "float8_e4m3fn":
        return product, functools.partial(_fp8_input_gradient, base)
    if base.quant_format == "int8_tensorwise":
        return product, functools.partial(_int8_input_gradient, base, _rotation(base.weight, device))
    # The blocks of nvfp4 and mxfp8 run along I, but here the sum runs along O.
    return product, None


def _default_input_scale(base: ComfyModule, device: torch.device) -> Tensor | None:
    """What ComfyUI quantises by when the file has no scale for the input: fp8 as it is, nvfp4 by the largest value."""
    return torch.ones((), device=device) if base.layout_type == _FP8 else None


def _quantize(layout: str, scale: Tensor | None, x: Tensor) -> Tensor:
    """As ComfyUI quantises an activation, but that a scale too small for it is made large enough instead of clamping.

    Only where sampling clamps is something else computed than there. Gradients know nothing of the clamping: they
    would be wrong, and training would drive more values into it.
    """
    if scale is not None:
        scale = torch.maximum(scale.float(), _largest(x) / _LARGEST[layout])
    return QuantizedTensor.from_float(x, layout, scale=scale)


def _largest(x: Tensor) -> Tensor:
    """Largest magnitude, in fp32 and never 0, without a second tensor of that size."""
    low, high = x.aminmax()
    return torch.maximum(-low, high).float().clamp(min=1e-30)


def _as_it_is(x: Tensor) -> Tensor:
    """For layouts whose product quantises its input itself."""
    return x


def _product(
    base: ComfyModule, quantize: Callable[[Tensor], Tensor], x: Tensor, fetched: host.FetchedWeight | None
) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    with host.stored_weights(base, x.device, x.dtype, fetched) as (weight, bias):
        if not isinstance(weight, QuantizedTensor):
            return F.linear(x, weight, bias)
        return _linear(quantize(rows), weight, bias).view(*x.shape[:-1], -1)


def _fp8_input_gradient(base: ComfyModule, grad: Tensor, fetched: host.FetchedWeight | None) -> Tensor:
    """E4M3: on gradients of real steps it is four times as near as E5M2, whose range no tensor of them needs."""
    rows = grad.reshape(-1, grad.shape[-1])
    with host.stored_weights(base, grad.device, grad.dtype, fetched) as (weight, _):
        if not isinstance(weight, QuantizedTensor):
            return grad @ weight
        quantized = QuantizedTensor.from_float(rows, _FP8, scale=_largest(rows) / _LARGEST[_FP8])
        return _linear(quantized, _transposed(weight)).view(*grad.shape[:-1], -1)


def _int8_input_gradient(
    base: ComfyModule, rotation: Tensor | None, grad: Tensor, fetched: host.FetchedWeight | None
) -> Tensor:
    """`grad @ (s * Q) @ R = ((grad * s) @ Q) @ R`: a row's scale s moves to the gradient, the rotation to the end."""
    rows = grad.reshape(-1, grad.shape[-1])
    with host.stored_weights(base, grad.device, grad.dtype, fetched) as (weight, _):
        if not isinstance(weight, QuantizedTensor):
            return grad @ weight
        scale = weight._params.scale.to(grad.device)
        rows = rows * scale.reshape(1, -1).to(rows.dtype)
        out = _linear(rows, _transposed(weight, scale=torch.ones((), device=grad.device), convrot=False))
    if rotation is not None:
        out = (out.view(-1, len(rotation)) @ rotation.to(out.dtype)).view_as(out)
    return out.view(*grad.shape[:-1], -1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` by ComfyUI's own handler for the format, as it is reached under inference mode.

    Outside of it autograd would first take the call apart, into pieces of which some have no quantised product.
    """
    linear = torch.ops.aten.linear.default
    return QuantizedTensor.__torch_dispatch__(linear, (QuantizedTensor,), (x, weight, bias))


def _transposed(weight: Any, **changes: Any) -> Tensor:
    """(O, I) as (I, O), in memory too: cards multiply fp8 and int8 only along what is contiguous in both operands."""
    data = weight._qdata.t().contiguous()
    params = dataclasses.replace(weight._params, orig_shape=tuple(data.shape), **changes)
    return QuantizedTensor(data, weight._layout_cls, params)


def _rotation(weight: Any, device: torch.device) -> Tensor | None:
    """What dequantising multiplies each group of a row by, on its right: found by dequantising the identity."""
    params = weight._params
    if not params.convrot:
        return None
    size = params.convrot_groupsize
    ones = torch.ones(size, 1, device=device)
    plain = dataclasses.replace(params, scale=ones, orig_dtype=torch.float32, orig_shape=(size, size))
    return get_layout_class(_INT8).dequantize(torch.eye(size, dtype=torch.int8, device=device), plain)
