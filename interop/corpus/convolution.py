"""Convolutions of every kind."""
import numpy as np

from .case import FEW, case, info, model, node, vector, weight

C, M = 24, 32


def _conv(kernel, inputs=C, *, spatial, op="Conv", bias=True, shape=None, dtype=np.float32, **attributes):
    w = (0.3 * weight(M, inputs, *kernel) if shape is None else 0.3 * weight(*shape)).astype(dtype)
    names = "x w b" if bias else "x w"
    weights = {"w": w} | ({"b": vector(attributes.pop("outputs", M))} if bias else {})
    return model([node(op, names, "y", **attributes)], [info("x", "batch", C, *spatial)],
                 [info("y", "batch", "channels", *[f"o{k}" for k in range(len(spatial))])], weights)


@case("2-D convolution", settings=FEW)
def conv_2d():
    return _conv([3, 3], spatial=[8, 8], pads=[1, 1, 1, 1])


@case("2-D convolution with strides, dilation and uneven pads", settings=FEW)
def conv_2d_strided():
    return _conv([3, 3], spatial=[11, 9], strides=[2, 1], dilations=[2, 1], pads=[1, 0, 2, 1])


@case("2-D convolution, auto_pad SAME_UPPER, no bias", settings=FEW)
def conv_2d_same():
    return _conv([3, 3], spatial=[7, 8], bias=False, auto_pad="SAME_UPPER", strides=[2, 2])


@case("1x1 convolution", settings=FEW)
def conv_1x1():
    return _conv([1, 1], spatial=[6, 6])


@case("1-D convolution", settings=FEW)
def conv_1d():
    return _conv([5], spatial=[20], pads=[2, 2], dilations=[1])


@case("3-D convolution", settings=FEW)
def conv_3d():
    return _conv([3, 3, 3], spatial=[4, 5, 6], pads=[1] * 6)


@case("grouped convolution", settings=FEW)
def conv_groups():
    return _conv([3, 3], C // 4, spatial=[6, 6], group=4)


@case("depthwise convolution", settings=FEW)
def conv_depthwise():
    return _conv([3, 3], spatial=[6, 6], shape=(C, 1, 3, 3), group=C, bias=False)


@case("transposed convolution", settings=FEW)
def conv_transpose():
    return _conv([3, 3], spatial=[5, 5], op="ConvTranspose", shape=(C, M, 3, 3), strides=[2, 2])


@case("a small classifier: Conv, BatchNormalization, MaxPool, Gemm", settings=("dense-8", "auto", "low-rank-3"))
def conv_net():
    nodes = [node("Conv", "x c1 b1", "h1", pads=[1, 1, 1, 1]), node("BatchNormalization", "h1 s m mean var", "n1"),
             node("Relu", "n1", "r1"), node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
             node("Conv", "p1 c2 b2", "h2", strides=[2, 2]), node("Relu", "h2", "r2"), node("GlobalAveragePool", "r2", "g"),
             node("Flatten", "g", "f"), node("Gemm", "f w b", "y", transB=1)]
    weights = {"c1": 0.5 * weight(16, 3, 3, 3), "b1": vector(16), "s": 1 + vector(16), "m": vector(16), "mean": vector(16),
               "var": 1 + np.abs(vector(16)), "c2": 0.2 * weight(M, 16, 3, 3), "b2": vector(M), "w": weight(64, M), "b": vector(64)}
    return model(nodes, [info("x", "batch", 3, 12, 12)], [info("y", "batch", 64)], weights)


@case("convolution with its weight behind Identity in a Constant", settings=FEW)
def conv_constant():
    from .case import tensor
    nodes = [node("Constant", "", "c", value=tensor("", 0.3 * weight(M, C, 3, 3))), node("Identity", "c", "w"),
             node("Conv", "x w", "y")]
    return model(nodes, [info("x", "batch", C, 6, 6)], [info("y", "batch", M, 4, 4)])
