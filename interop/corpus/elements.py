"""Element types and versions of the operators."""
import numpy as np
import onnx
from onnx import TensorProto, helper

from .case import CASES, FEW, Case, case, info, model, node, vector, weight

K, N = 64, 48


def _two_layers(dtype):
    numpy = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {"w": weight(K, K).astype(numpy), "b": vector(K).astype(numpy), "w2": weight(K, N).astype(numpy),
               "b2": vector(N).astype(numpy)}
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "s"), node("Tanh", "s", "t"), node("Gemm", "t w2 b2", "y", alpha=0.5)]
    return model(nodes, [info("x", "batch", K, dtype=dtype)], [info("y", "batch", N, dtype=dtype)], weights)


@case("float16", becomes=["w", "w2"], tolerance=3e-3, tract="expected")
def float16():
    return _two_layers(TensorProto.FLOAT16)


@case("float16 MatMul", becomes=["w"], tolerance=3e-3)
def float16_matmul():
    f16 = TensorProto.FLOAT16
    return model([node("MatMul", "x w", "h"), node("Add", "h b", "y")], [info("x", "batch", K, dtype=f16)],
                 [info("y", "batch", N, dtype=f16)], {"w": weight(K, N, dtype=np.float16), "b": vector(N, dtype=np.float16)})


@case("bfloat16", becomes=["w", "w2"], tolerance=3e-2, tract="bfloat16", ort="NOT_IMPLEMENTED", settings=FEW)
def bfloat16():
    return _two_layers(TensorProto.BFLOAT16)


@case("float64", becomes=["w", "w2"], tract="accessed as F64", settings=FEW)
def float64():
    return _two_layers(TensorProto.DOUBLE)


@case("float64 MatMul", becomes=["w"])
def float64_matmul():
    return model([node("MatMul", "x w", "h"), node("Add", "h b", "y")], [info("x", "batch", K, dtype=TensorProto.DOUBLE)],
                 [info("y", "batch", N, dtype=TensorProto.DOUBLE)], {"w": weight(K, N, dtype=np.float64), "b": vector(N, dtype=np.float64)})


@case("float16 layers between float32 inputs and outputs", becomes=["w"], tolerance=3e-3)
def float16_inside():
    nodes = [node("Cast", "x", "x16", to=TensorProto.FLOAT16), node("MatMul", "x16 w", "h"), node("Cast", "h", "y", to=1)]
    return model(nodes, [info("x", "batch", K)], [info("y", "batch", N)], {"w": weight(K, N, dtype=np.float16)})


def _opset(opset):
    def make():
        nodes = [node("MatMul", "x w1", "h1"), node("Add", "h1 b1", "s1"), node("Relu", "s1", "a1"),
                 node("Gemm", "a1 w2 b2", "h2", transB=1), node("Softmax", "h2", "y", axis=1)]
        weights = {"w1": weight(K, K), "b1": vector(K), "w2": weight(N, K), "b2": vector(N)}
        return model(nodes, [info("x", "batch", K)], [info("y", "batch", N)], weights, opset=opset)

    return make


for _version in range(6, onnx.defs.onnx_opset_version() + 1):
    _old = _version < 7
    CASES[f"opset-{_version}"] = Case(
        f"opset-{_version}", lambda _, made=_opset(_version): made(), f"opset {_version}",
        settings=("dense-8", ("low-rank-3", "split-8", "interleaved-4", "tucker-8", "dense-4")[_version % 5]),
        becomes=frozenset() if _old else frozenset({"w1", "w2"}), stays={"w1": "opset"} if _old else {},
        # Before opset 7, Add and Gemm broadcast only when an attribute says so.
        ort="" if _old else None)
