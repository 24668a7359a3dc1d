"""Layers that multiply by a constant matrix, in every form that the operators allow."""
import numpy as np

from .case import ALL, FEW, case, info, model, node, vector, weight

K, N = 64, 48
X, Y = info("x", "batch", K), info("y", "batch", N)


@case("MatMul", becomes=["w"], settings=ALL)
def matmul():
    return model([node("MatMul", "x w", "y")], [X], [Y], {"w": weight(K, N)})


@case("MatMul + Add", becomes=["w"], settings=ALL)
def matmul_add():
    return model([node("MatMul", "x w", "h"), node("Add", "h b", "y")], [X], [Y], {"w": weight(K, N), "b": vector(N)})


@case("MatMul + Add, the bias first", becomes=["w"])
def matmul_add_bias_first():
    return model([node("MatMul", "x w", "h"), node("Add", "b h", "y")], [X], [Y], {"w": weight(K, N), "b": vector(N)})


@case("MatMul of three axes, two of them open", becomes=["w"], settings=ALL)
def matmul_three_axes():
    return model([node("MatMul", "x w", "y")], [info("x", "batch", "sequence", K)], [info("y", "batch", "sequence", N)],
                 {"w": weight(K, N)})


@case("MatMul of an input without a stated rank", becomes=["w"])
def matmul_rank_unknown():
    flat = node("Reshape", "x shape", "h")
    return model([flat, node("MatMul", "h w", "y")], [info("x", "batch", 4, 16)], [info("y", "batch", N)],
                 {"w": weight(K, N), "shape": np.array([0, -1])})


@case("MatMul of a vector", becomes=["w"])
def matmul_vector():
    return model([node("MatMul", "x w", "y")], [info("x", K)], [info("y", N)], {"w": weight(K, N)},)


@case("MatMul to a single column and from a single row", becomes=["w1"], settings=("dense-8", "low-rank-3", "auto"))
def matmul_narrow():
    return model([node("MatMul", "x w1", "h"), node("MatMul", "h w2", "y")], [info("x", "batch", 700)],
                 [info("y", "batch", 3)], {"w1": weight(700, 1), "w2": weight(1, 3)})


@case("Gemm", becomes=["w"], settings=ALL)
def gemm():
    return model([node("Gemm", "x w b", "y")], [X], [Y], {"w": weight(K, N), "b": vector(N)})


@case("Gemm without C", becomes=["w"], settings=FEW)
def gemm_no_c():
    return model([node("Gemm", "x w", "y")], [X], [Y], {"w": weight(K, N)})


@case("Gemm transB", becomes=["w"], settings=ALL)
def gemm_trans_b():
    return model([node("Gemm", "x w b", "y", transB=1)], [X], [Y], {"w": weight(N, K), "b": vector(N)})


@case("Gemm transA", becomes=["w"])
def gemm_trans_a():
    return model([node("Gemm", "x w b", "y", transA=1)], [info("x", K, 7)], [info("y", 7, N)],
                 {"w": weight(K, N), "b": vector(N)})


@case("Gemm alpha, beta, transB", becomes=["w"], settings=ALL)
def gemm_alpha_beta():
    return model([node("Gemm", "x w b", "y", transB=1, alpha=0.5, beta=2.0)], [X], [Y],
                 {"w": weight(N, K), "b": vector(N)})


@case("Gemm with beta 0", becomes=["w"], settings=FEW)
def gemm_beta_zero():
    return model([node("Gemm", "x w b", "y", beta=0.0)], [X], [Y], {"w": weight(K, N), "b": vector(N)})


@case("Gemm with C as a scalar, a column, a row, a matrix", becomes=["w1", "w2", "w3", "w4"])
def gemm_c_shapes():
    nodes = [node("Gemm", "x w1 c1", "h1"), node("Gemm", "h1 w2 c2", "h2", beta=0.5), node("Gemm", "h2 w3 c3", "h3"),
             node("Gemm", "h3 w4 c4", "y", beta=3.0)]
    c = {"c1": np.float32(0.25), "c2": vector(7).reshape(7, 1), "c3": vector(K).reshape(1, K), "c4": vector(7 * K).reshape(7, K)}
    return model(nodes, [info("x", 7, K)], [info("y", 7, K)], {f"w{k}": weight(K, K, seed=k) for k in range(1, 5)} | c)


@case("Gemm with C an input", becomes=["w"], settings=FEW)
def gemm_c_input():
    return model([node("Gemm", "x w c", "y")], [X, info("c", "batch", N)], [Y], {"w": weight(K, N)})


@case("weight on the left side: W X", becomes=["w"])
def matmul_left():
    return model([node("MatMul", "w x", "y")], [info("x", "batch", K, 3)], [info("y", "batch", N, 3)], {"w": weight(N, K)})


@case("Gemm with its constant as A", becomes=["w"])
def gemm_left():
    return model([node("Gemm", "w x", "y", transB=1)], [info("x", 9, K)], [info("y", N, 9)], {"w": weight(N, K)})


@case("batched MatMul with a constant side", becomes=["w"])
def matmul_batched():
    return model([node("MatMul", "x w", "y")], [info("x", "batch", 4, 6, K)], [info("y", "batch", 4, 6, N)],
                 {"w": weight(4, K, N)})


@case("batched MatMul whose constant has leading ones", becomes=["w"])
def matmul_leading_ones():
    return model([node("MatMul", "x w", "y")], [info("x", "batch", 6, K)], [info("y", "batch", 6, N)],
                 {"w": weight(1, K, N)})


@case("Einsum with a constant matrix", becomes=["w"])
def einsum():
    return model([node("Einsum", "x w", "y", equation="bi,io->bo")], [X], [Y], {"w": weight(K, N)})


@case("Einsum of three axes, the constant transposed", becomes=["w"])
def einsum_transposed():
    return model([node("Einsum", "x w", "y", equation="bsi,oi->bso")], [info("x", "batch", "s", K)],
                 [info("y", "batch", "s", N)], {"w": weight(N, K)})


@case("Einsum into heads", becomes=["w"])
def einsum_heads():
    return model([node("Einsum", "x w", "y", equation="bsd,dhk->bshk")], [info("x", "batch", "s", K)],
                 [info("y", "batch", "s", 4, 12)], {"w": weight(K, 4, 12)})


@case("a weight of two MatMuls", becomes=["w"])
def shared():
    return model([node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r w", "y")], [info("x", "batch", K)],
                 [info("y", "batch", K)], {"w": weight(K, K)})


@case("a weight of a MatMul and of a Gemm that transposes it", becomes=["w"])
def shared_transposed():
    return model([node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Gemm", "r w", "y", transB=1)], [X],
                 [info("y", "batch", K)], {"w": weight(K, N)})


@case("a weight that is also added", stays={"w": "shared by 2 nodes"}, becomes=[], settings=FEW)
def shared_with_add():
    return model([node("MatMul", "x w", "h"), node("Add", "h w", "y")], [info("x", K, K)], [info("y", K, K)],
                 {"w": weight(K, K)})


@case("a weight that is an output too", becomes=[], stays={"w": "graph output"}, settings=FEW)
def weight_is_output():
    return model([node("MatMul", "x w", "y")], [X], [Y, info("w", K, N)], {"w": weight(K, N)},)


@case("both sides constant", becomes=["a", "b"], settings=FEW)
def both_constant():
    nodes = [node("MatMul", "a b", "w"), node("MatMul", "x w", "y")]
    return model(nodes, [X], [Y], {"a": weight(K, 4), "b": weight(4, N * 1, seed=1)})


@case("a stack with activations and normalization", becomes=["w1", "w2", "w3"], settings=ALL)
def stack():
    nodes = [node("Gemm", "x w1 b1", "h1", transB=1), node("Relu", "h1", "a1"), node("MatMul", "a1 w2", "h2"),
             node("Add", "h2 b2", "s2"), node("LayerNormalization", "s2 scale shift", "n2"), node("Tanh", "n2", "a2"),
             node("Gemm", "a2 w3 b3", "y")]
    weights = {"w1": weight(128, K), "b1": vector(128), "w2": weight(128, K), "b2": vector(K), "scale": 1 + vector(K),
               "shift": vector(K), "w3": weight(K, N), "b3": vector(N)}
    return model(nodes, [X], [Y], weights)


@case("a weight too small for its operators", becomes=[], stays={"w": "bytes"})
def tiny():
    return model([node("MatMul", "x w", "y")], [info("x", "batch", 8)], [info("y", "batch", 8)], {"w": weight(8, 8)})


@case("a weight of zeros", becomes=["w"], settings=ALL)
def zeros():
    return model([node("MatMul", "x w", "y")], [X], [Y], {"w": np.zeros((K, N), np.float32)})


@case("a weight with NaN", becomes=["zero"], stays={"w": "finite"}, settings=FEW)
def not_finite():
    array = weight(K, N)
    array[3, 4] = np.nan
    return model([node("MatMul", "x w", "h"), node("MatMul", "x zero", "z"), node("Concat", "h z", "y", axis=1)], [X],
                 [info("y", "batch", 2 * N)], {"w": array, "zero": np.zeros((K, N), np.float32)})


@case("a weight without elements", becomes=["w2"], stays={"w1": "matrix"}, settings=FEW)
def no_elements():
    nodes = [node("MatMul", "x w1", "h"), node("Concat", "x h", "c", axis=1), node("MatMul", "c w2", "y")]
    return model(nodes, [X], [Y], {"w1": np.zeros((K, 0), np.float32), "w2": weight(K, N)})


@case("com.microsoft FusedMatMul, FusedGemm", becomes=["w1", "w2"], tract="FusedMatMul", settings=FEW, checker=None)
def fused_matmul():
    nodes = [node("FusedMatMul", "x w1", "h", domain="com.microsoft", transB=1, alpha=0.5),
             node("FusedGemm", "h w2 b", "y", domain="com.microsoft", activation="Relu")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "w2": weight(K, N), "b": vector(N)}, domains=[("com.microsoft", 1)])
