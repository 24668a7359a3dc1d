"""Constants wherever they stand: nodes, inputs, behind other operators, in other fields and files."""
import numpy as np
import onnx
from onnx import TensorProto, helper

from .case import FEW, INT64, case, info, model, node, tensor, vector, weight

K, N = 64, 48
X, Y = info("x", "batch", K), info("y", "batch", N)
LAYER = node("MatMul", "x v", "y")


@case("weight in a Constant node", becomes=["v"])
def constant_node():
    return model([node("Constant", "", "v", value=tensor("", weight(K, N))), LAYER], [X], [Y])


@case("Constant node with value_floats, Reshape behind it", settings=FEW)
def constant_floats():
    nodes = [node("Constant", "", "f", value_floats=weight(K, N).ravel().tolist()), node("Reshape", "f s", "v"), LAYER]
    return model(nodes, [X], [Y], {"s": np.array([K, N])})


@case("behind Identity", becomes=["w"])
def through_identity():
    return model([node("Identity", "w", "v"), LAYER], [X], [Y], {"w": weight(K, N)})


@case("behind Transpose", becomes=["w"])
def through_transpose():
    return model([node("Transpose", "w", "v", perm=[1, 0]), LAYER], [X], [Y], {"w": weight(N, K)})


@case("behind Reshape", becomes=["w"])
def through_reshape():
    return model([node("Reshape", "w s", "v"), LAYER], [X], [Y], {"w": weight(K, 6, 8), "s": np.array([0, -1])})


@case("behind Cast from float16", becomes=["w"], settings=FEW)
def through_cast():
    return model([node("Cast", "w", "v", to=TensorProto.FLOAT), LAYER], [X], [Y], {"w": weight(K, N, dtype=np.float16)})


@case("behind Identity, Transpose, Reshape and Cast", becomes=["w"])
def through_all():
    nodes = [node("Identity", "w", "i"), node("Transpose", "i", "t", perm=[2, 0, 1]), node("Reshape", "t s", "r"),
             node("Cast", "r", "v", to=TensorProto.FLOAT), LAYER]
    return model(nodes, [X], [Y], {"w": weight(6, 8, K), "s": np.array([K, N])})


@case("behind Squeeze and Unsqueeze", becomes=["w"], settings=FEW)
def through_squeeze():
    nodes = [node("Unsqueeze", "w a", "u"), node("Squeeze", "u a", "v"), LAYER]
    return model(nodes, [X], [Y], {"w": weight(K, N), "a": np.array([1])})


@case("a Constant read through Identity by two layers", becomes=["c"], settings=FEW)
def constant_shared():
    nodes = [node("Constant", "", "c", value=tensor("", weight(K, K))), node("Identity", "c", "v1"), node("Identity", "c", "v2"),
             node("MatMul", "x v1", "h"), node("MatMul", "h v2", "y")]
    return model(nodes, [X], [info("y", "batch", K)])


@case("behind Slice and Concat: parts of a table", becomes=["w"], settings=FEW)
def through_slice():
    nodes = [node("Slice", "w from to axis", "v"), LAYER]
    return model(nodes, [X], [Y], {"w": weight(K, 3 * N), "from": np.array([N]), "to": np.array([2 * N]), "axis": np.array([1])})


@case("ConstantOfShape: no stored weight", becomes=[], settings=FEW)
def constant_of_shape():
    nodes = [node("ConstantOfShape", "s", "v", value=helper.make_tensor("", 1, [1], [0.125])), LAYER]
    return model(nodes, [X], [Y], {"s": np.array([K, N])})


@case("IR 3: initializers are graph inputs", becomes=["w"])
def ir3_inputs():
    made = model([node("MatMul", "x w", "h"), node("Add", "h b", "y")], [X], [Y],
                 {"w": weight(K, N), "b": vector(N)}, opset=8, ir=3)
    assert [i.name for i in made.graph.input] == ["x", "w", "b"]
    return made


@case("IR 8: an initializer that a caller may replace", becomes=["w2"], stays={"w": "graph input"}, settings=FEW)
def overridable():
    return model([node("MatMul", "x w", "h"), node("MatMul", "h w2", "y")], [X, info("w", K, K)], [Y],
                 {"w": weight(K, K), "w2": weight(K, N)})


@case("sparse initializer", becomes=["w2"], tract="Could not resolve inputs", checker="wrong rank", settings=FEW)
def sparse():
    values = helper.make_tensor("w", TensorProto.FLOAT, [3], [0.5, -1.0, 2.0])
    indices = helper.make_tensor("w_indices", INT64, [3], [3, 64, 200])
    made = model([node("MatMul", "x w", "h"), node("MatMul", "h w2", "y")], [X], [Y], {"w2": weight(K, N)})
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [K, K]))
    return made


@case("numbers in typed fields instead of raw bytes", becomes=["w", "h16", "d"], settings=FEW)
def typed_fields():
    stored = {
        "w": helper.make_tensor("w", TensorProto.FLOAT, [K, N], weight(K, N).ravel().tolist()),
        "h16": helper.make_tensor("h16", TensorProto.FLOAT16, [N, K], weight(N, K, dtype=np.float16).ravel()),
        "d": helper.make_tensor("d", TensorProto.DOUBLE, [K, N], weight(K, N, seed=3).ravel().tolist()),
    }
    nodes = [node("MatMul", "x w", "h1"), node("Cast", "h16", "c1", to=1), node("MatMul", "h1 c1", "h2"),
             node("Cast", "d", "c2", to=1), node("MatMul", "h2 c2", "y")]
    return model(nodes, [X], [Y], stored)


@case("external data", becomes=["w1", "w2"])
def external(folder):
    made = model([node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("MatMul", "r w2", "y")], [X], [Y],
                 {"w1": weight(K, 128), "w2": weight(128, N)})
    onnx.save(made, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)


@case("external data of weights in subgraphs", settings=FEW)
def external_subgraph(folder):
    def branch(name, seed):
        stored = [tensor(f"w_{name}", weight(K, N, seed=seed))]
        return helper.make_graph([node("MatMul", f"x w_{name}", f"y_{name}")], name, [], [info(f"y_{name}", "batch", N)], stored)

    nodes = [node("ReduceSum", "x", "total", keepdims=0), node("Greater", "total zero", "flag"),
             node("If", "flag", "y", then_branch=branch("then", 0), else_branch=branch("else", 1))]
    made = model(nodes, [X], [Y], {"zero": np.float32(0)})
    onnx.save(made, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
