"""Models that are quantized already: recognised, never quantized twice."""
import numpy as np
from onnx import TensorProto, helper

from .case import FEW, case, info, model, node, tensor, vector, weight

K, N = 64, 48
X, Y = info("x", "batch", K), info("y", "batch", N)
ALREADY = "quantized already"


def _codes(array, axis=None):
    scale = np.abs(array).max(axis=None if axis is None else 1 - axis) / 127
    spread = scale if axis is None else np.expand_dims(scale, 1 - axis)
    return np.round(array / spread).astype(np.int8), np.float32(scale)


@case("weight behind DequantizeLinear", becomes=["w2"], stays={"q": ALREADY})
def dequantize():
    codes, scale = _codes(weight(K, K))
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "h"), node("MatMul", "h w2", "y")]
    return model(nodes, [X], [Y], {"q": codes, "s": scale, "w2": weight(K, N)})


@case("weight behind DequantizeLinear per axis, and Transpose", becomes=["w2"], stays={"q": ALREADY}, settings=FEW)
def dequantize_axis():
    codes, scale = _codes(weight(K, K), axis=0)
    nodes = [node("DequantizeLinear", "q s z", "w", axis=0), node("Transpose", "w", "t"), node("MatMul", "x t", "h"),
             node("MatMul", "h w2", "y")]
    return model(nodes, [X], [Y], {"q": codes, "s": scale, "z": np.zeros(K, np.int8), "w2": weight(K, N)})


@case("int4 in blocks behind DequantizeLinear (opset 21)", becomes=["w2"], tract="Int4", settings=FEW)
def dequantize_blocks():
    codes = np.random.default_rng(0).integers(-8, 8, K * K)
    stored = {"q": helper.make_tensor("q", TensorProto.INT4, [K, K], codes), "s": (0.02 + np.abs(vector(2 * K))).reshape(2, K),
              "w2": weight(K, N)}
    nodes = [node("DequantizeLinear", "q s", "w", axis=0, block_size=32), node("MatMul", "x w", "h"), node("MatMul", "h w2", "y")]
    return model(nodes, [X], [Y], stored, opset=21)


@case("QDQ: activations and weights", becomes=[], stays={"q": ALREADY}, settings=FEW)
def qdq():
    codes, scale = _codes(weight(K, N))
    nodes = [node("QuantizeLinear", "x xs xz", "xq"), node("DequantizeLinear", "xq xs xz", "xd"), node("DequantizeLinear", "q s", "w"),
             node("MatMul", "xd w", "h"), node("QuantizeLinear", "h ys yz", "yq"), node("DequantizeLinear", "yq ys yz", "y")]
    weights = {"q": codes, "s": scale, "xs": np.float32(0.03), "xz": np.uint8(128), "ys": np.float32(0.05), "yz": np.uint8(128)}
    return model(nodes, [X], [Y], weights)


@case("QDQ with the weight still in float32, as training with quantization leaves it", becomes=[], stays={"w": ALREADY},
      settings=FEW)
def qdq_float_weight():
    nodes = [node("QuantizeLinear", "w s z", "q"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "x d", "y")]
    return model(nodes, [X], [Y], {"w": weight(K, N), "s": np.float32(0.01), "z": np.int8(0)})


@case("QLinearMatMul", becomes=[], settings=FEW)
def qlinear_matmul():
    codes, scale = _codes(weight(K, N))
    nodes = [node("QuantizeLinear", "x xs xz", "xq"), node("QLinearMatMul", "xq xs xz q s z ys yz", "yq"),
             node("DequantizeLinear", "yq ys yz", "y")]
    weights = {"q": codes, "s": scale, "z": np.int8(0), "xs": np.float32(0.03), "xz": np.uint8(128), "ys": np.float32(0.05),
               "yz": np.uint8(128)}
    return model(nodes, [X], [Y], weights)


@case("DynamicQuantizeLinear and MatMulInteger", becomes=["w2"], settings=FEW)
def dynamic_quantized():
    codes, scale = _codes(weight(K, K))
    nodes = [node("DynamicQuantizeLinear", "x", "xq xs xz"), node("MatMulInteger", "xq q xz z", "i"), node("Cast", "i", "f", to=1),
             node("Mul", "xs s", "m"), node("Mul", "f m", "h"), node("MatMul", "h w2", "y")]
    return model(nodes, [X], [Y], {"q": codes, "s": scale, "z": np.int8(0), "w2": weight(K, N)})


@case("MatMulNBits", becomes=["w2"], settings=FEW, tolerance=2e-3)
def matmul_nbits():
    random = np.random.default_rng(0)
    stored = {"q": random.integers(0, 256, (K, 2, 16)).astype(np.uint8), "s": (0.01 + np.abs(vector(2 * K)) / 4), "w2": weight(K, N)}
    nodes = [node("MatMulNBits", "x q s", "h", domain="com.microsoft", K=K, N=K, bits=4, block_size=32), node("MatMul", "h w2", "y")]
    return model(nodes, [X], [Y], stored, domains=[("com.microsoft", 1)])


@case("QLinearConv", becomes=[], settings=FEW)
def qlinear_conv():
    w = 0.2 * weight(16, 8, 3, 3)
    codes, scale = _codes(w.reshape(16, -1))
    nodes = [node("QuantizeLinear", "x xs xz", "xq"), node("QLinearConv", "xq xs xz q s z ys yz", "yq"),
             node("DequantizeLinear", "yq ys yz", "y")]
    weights = {"q": codes.reshape(w.shape), "s": scale, "z": np.int8(0), "xs": np.float32(0.03), "xz": np.uint8(128),
               "ys": np.float32(0.05), "yz": np.uint8(128)}
    return model(nodes, [info("x", "batch", 8, 6, 6)], [info("y", "batch", 16, 4, 4)], weights)


@case("LSTM with its weights behind DequantizeLinear", becomes=[], stays={"q": ALREADY}, settings=FEW)
def lstm_dequantized():
    codes, scale = _codes(weight(128, 24))
    r_codes, r_scale = _codes(weight(128, 32))
    nodes = [node("DequantizeLinear", "q s", "w"), node("DequantizeLinear", "rq rs", "r"), node("LSTM", "x w r", "y", hidden_size=32)]
    return model(nodes, [info("x", 6, 3, 24)], [info("y", 6, 1, 3, 32)],
                 {"q": codes[None], "s": scale, "rq": r_codes[None], "rs": r_scale})


@case("float8 behind DequantizeLinear", becomes=["w2"], tract="", settings=FEW)
def dequantize_float8():
    stored = {"q": helper.make_tensor("q", TensorProto.FLOAT8E4M3FN, [K, K], weight(K, K).ravel()), "s": np.float32(0.5),
              "w2": weight(K, N)}
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "h"), node("MatMul", "h w2", "y")]
    return model(nodes, [X], [Y], stored, opset=19)
