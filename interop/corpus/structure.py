"""Everything around the weights: subgraphs, functions, domains, names, texts, order."""
import numpy as np
import onnx
from onnx import TensorProto, helper

from .case import FEW, INT64, SOME, case, info, model, node, tensor, vector, weight

K, N = 64, 48
X, Y = info("x", "batch", K), info("y", "batch", N)
FLAG = info("flag", dtype=TensorProto.BOOL)
ON = {"flag": lambda random, shape: True}


def _graph(name, nodes, inputs, outputs, weights=None):
    return helper.make_graph(nodes, name, inputs, outputs, [tensor(key, array) for key, array in (weights or {}).items()])


def _condition(source="x"):
    """Nodes that make `flag` of the data: whether the sum of its first sample is above zero."""
    return [node("ReduceSum", f"{source}", "total", keepdims=0), node("Greater", "total zero", "flag")]


ZERO = {"zero": np.float32(0)}


@case("If: each branch has its own weight", becomes=["w_then", "w_else"])
def if_branches():
    then = _graph("then", [node("MatMul", "x w_then", "y_then")], [], [info("y_then", "batch", N)], {"w_then": weight(K, N)})
    other = _graph("else", [node("MatMul", "x w_else", "h_else"), node("Add", "h_else b_else", "y_else")], [],
                   [info("y_else", "batch", N)], {"w_else": weight(K, N, seed=1), "b_else": vector(N)})
    return model([*_condition(), node("If", "flag", "y", then_branch=then, else_branch=other)], [X], [Y], ZERO)


@case("If: both branches take one weight from around them", becomes=["w"])
def if_captured():
    then = _graph("then", [node("MatMul", "x w", "y_then")], [], [info("y_then", "batch", N)])
    other = _graph("else", [node("Neg", "x", "n"), node("MatMul", "n w", "y_else")], [], [info("y_else", "batch", N)])
    return model([*_condition(), node("If", "flag", "y", then_branch=then, else_branch=other)], [X], [Y], {**ZERO, "w": weight(K, N)})


@case("If: a weight of a branch and of the graph around it", becomes=["w"])
def if_captured_and_outside():
    then = _graph("then", [node("MatMul", "h w", "y_then")], [], [info("y_then", "batch", K)])
    other = _graph("else", [node("Identity", "h", "y_else")], [], [info("y_else", "batch", K)])
    nodes = [node("MatMul", "x w", "h"), *_condition("h"), node("If", "flag", "y", then_branch=then, else_branch=other)]
    return model(nodes, [X], [info("y", "batch", K)], {**ZERO, "w": weight(K, K)})


@case("If: a captured weight that one branch returns as it is", becomes=[], settings=FEW, stays={"w": ""})
def if_captured_blocked():
    then = _graph("then", [node("MatMul", "x w", "y_then")], [], [info("y_then", K, K)])
    other = _graph("else", [node("Identity", "w", "y_else")], [], [info("y_else", K, K)])
    return model([*_condition(), node("If", "flag", "y", then_branch=then, else_branch=other)], [info("x", K, K)],
                 [info("y", K, K)], {**ZERO, "w": weight(K, K)})


@case("If: both branches use the same names inside", becomes=["w", "If:y/else_branch/w"], settings=FEW)
def if_same_names():
    def branch(name, seed):
        return _graph(name, [node("MatMul", "x w", "h"), node("Relu", "h", "r")], [], [info("r", "batch", N)], {"w": weight(K, N, seed=seed)})

    return model([*_condition(), node("If", "flag", "y", then_branch=branch("then", 0), else_branch=branch("else", 1))], [X], [Y], ZERO)


@case("Loop: weight captured, weight inside, weight in a Constant inside", becomes=["w1", "w2", "w3"], tract="Loop", settings=("dense-8", "low-rank-3"))
def loop():
    body = _graph("body", [node("MatMul", "state w1", "h1"), node("Tanh", "h1", "a1"), node("MatMul", "a1 w2", "h2"), node("Tanh", "h2", "a2"),
                           node("Constant", "", "w3", value=tensor("", weight(K, K, seed=2))), node("MatMul", "a2 w3", "next"),
                           node("Identity", "cond", "cond_out")],
                  [info("i", dtype=INT64), info("cond", dtype=TensorProto.BOOL), info("state", "batch", K)],
                  [info("cond_out", dtype=TensorProto.BOOL), info("next", "batch", K)], {"w2": weight(K, K, seed=1)})
    return model([node("Loop", "count true x", "y", body=body)], [X], [info("y", "batch", K)],
                 {"count": np.array(3), "true": np.array(True), "w1": weight(K, K)})


@case("Scan: weights captured", becomes=["w", "r"])
def scan():
    body = _graph("body", [node("MatMul", "step w", "i"), node("MatMul", "state r", "h"), node("Add", "i h", "s"), node("Tanh", "s", "next"),
                           node("Identity", "next", "out")],
                  [info("state", 1, K), info("step", 1, K)], [info("next", 1, K), info("out", 1, K)])
    return model([node("Scan", "start x", "last y", num_scan_inputs=1, body=body)], [info("x", 6, 1, K)], [info("y", 6, 1, K)],
                 {"start": np.zeros((1, K), np.float32), "w": weight(K, K), "r": weight(K, K, seed=1)})


@case("an If inside a Loop, weights at each depth", becomes=["w0", "w1", "w2"], settings=FEW, tract="Loop")
def nested_subgraphs():
    then = _graph("then", [node("MatMul", "h1 w2", "y_then")], [], [info("y_then", "batch", K)], {"w2": weight(K, K, seed=2)})
    other = _graph("else", [node("MatMul", "h1 w0", "y_else")], [], [info("y_else", "batch", K)])
    body = _graph("body", [node("MatMul", "state w1", "h1"), node("If", "cond", "h2", then_branch=then, else_branch=other),
                           node("Tanh", "h2", "next"), node("Identity", "cond", "cond_out")],
                  [info("i", dtype=INT64), info("cond", dtype=TensorProto.BOOL), info("state", "batch", K)],
                  [info("cond_out", dtype=TensorProto.BOOL), info("next", "batch", K)], {"w1": weight(K, K, seed=1)})
    nodes = [node("MatMul", "x w0", "h0"), node("Loop", "count true h0", "y", body=body)]
    return model(nodes, [X], [info("y", "batch", K)], {"count": np.array(2), "true": np.array(True), "w0": weight(K, K)})


def _function(name, inputs, outputs, nodes, opset=17, domain="local", **more):
    return helper.make_function(domain, name, inputs, outputs, nodes, [helper.make_opsetid("", opset)], **more)


LOCAL = [("local", 1)]
FUNCTION = "local"


@case("function with a weight in a Constant, called twice", becomes=["w"], tract=None)
def function_constant():
    body = [node("Constant", "", "w", value=tensor("", weight(K, K))), node("MatMul", "a w", "h"), node("Relu", "h", "b")]
    nodes = [node("Layer", "x", "h", domain="local"), node("Layer", "h", "y", domain="local")]
    return model(nodes, [X], [info("y", "batch", K)], domains=LOCAL, functions=[_function("Layer", ["a"], ["b"], body)])


@case("function that is given its weight", becomes=["w1", "w2"])
def function_argument():
    body = [node("MatMul", "a w", "h"), node("Add", "h bias", "s"), node("Relu", "s", "b")]
    nodes = [node("Layer", "x w1 b1", "h", domain="local"), node("Layer", "h w2 b2", "y", domain="local")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "b1": vector(K), "w2": weight(K, N), "b2": vector(N)}, domains=LOCAL,
                 functions=[_function("Layer", ["a", "w", "bias"], ["b"], body)])


@case("function beside the layers", becomes=["w1", "w2"], settings=FEW)
def function_activation():
    body = [node("Sigmoid", "a", "s"), node("Mul", "a s", "b")]
    nodes = [node("MatMul", "x w1", "h"), node("Swish", "h", "a", domain="local"), node("MatMul", "a w2", "y")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "w2": weight(K, N)}, domains=LOCAL,
                 functions=[_function("Swish", ["a"], ["b"], body)])


@case("functions that call each other, with attributes and their defaults", becomes=["w1", "w2"], settings=FEW)
def function_nested():
    inner = helper.make_function("local", "Scale", ["a"], ["b"], [
        _reference(node("Constant", "", "c"), "value_float", "factor"), node("Mul", "a c", "b")],
        [helper.make_opsetid("", 17)], attributes=[], attribute_protos=[helper.make_attribute("factor", 0.5)])
    outer = helper.make_function("local", "Layer", ["a", "w"], ["b"], [
        node("MatMul", "a w", "h"), _reference(node("Scale", "h", "b", domain="local"), "factor", "f")],
        [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)], attributes=["f"])
    nodes = [node("Layer", "x w1", "h", domain="local", f=2.0), node("Scale", "h", "s", domain="local"),
             node("MatMul", "s w2", "y")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "w2": weight(K, N)}, domains=LOCAL, functions=[inner, outer])


def _reference(made, attribute, parameter, kind=onnx.AttributeProto.FLOAT):
    made.attribute.add(name=attribute, ref_attr_name=parameter, type=kind)
    return made


@case("functions overloaded (IR 10)", becomes=["w1"], settings=FEW)
def function_overload():
    plain = _function("Act", ["a"], ["b"], [node("Relu", "a", "b")], opset=21)
    other = _function("Act", ["a"], ["b"], [node("Tanh", "a", "b")], opset=21, overload="tanh")
    call = node("Act", "h", "y", domain="local")
    call.overload = "tanh"
    return model([node("MatMul", "x w1", "g"), node("Act", "g", "h", domain="local"), call], [X], [Y], {"w1": weight(K, N)}, opset=21,
                 domains=LOCAL, functions=[plain, other], ir=10)


@case("no nodes: the input is the output", settings=("auto",), becomes=[], tract="without a determined fact")
def empty():
    return model([], [X], [info("x", "batch", K)])


@case("an output that is an initializer", settings=FEW, becomes=["w"])
def constant_output():
    return model([node("MatMul", "x w", "y")], [X], [Y, info("c", 3)], {"w": weight(K, N), "c": vector(3)})


@case("dim_params that are no identifiers", becomes=["w"], settings=("dense-8", "low-rank-3", "interleaved-4"))
def odd_dim_params():
    names = ["batch-size.0", "2*seq + 1", "N+"]
    return model([node("MatMul", "x w", "h"), node("Identity", "h", "y")], [info("x", names[0], names[1], K)],
                 [info("y", *names[:2], N)], {"w": weight(K, N)}, infos=[info("h", *names[:2], N)])


@case("no sizes at all", becomes=["w"], settings=("dense-8", "low-rank-3", "interleaved-4"), checker="'shape'", tract="without a determined fact",
      inputs={"x": lambda random, shape: random.standard_normal((5, K)).astype(np.float32)})
def no_shape():
    return model([node("MatMul", "x w", "y")], [helper.make_tensor_value_info("x", 1, None)], [helper.make_tensor_value_info("y", 1, None)],
                 {"w": weight(K, N)})


@case("nodes out of order", becomes=["w1", "w2"], checker="sorted", settings=FEW)
def unsorted():
    nodes = [node("MatMul", "a w2", "y"), node("Relu", "h", "a"), node("MatMul", "x w1", "h")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "w2": weight(K, N)})


@case("texts, metadata, annotations and value infos everywhere", becomes=["w1", "w2"])
def texts():
    made = model([node("MatMul", "x w1", "h", name="first"), node("Relu", "h", "a", name="act"), node("MatMul", "a w2", "y", name="second")],
                 [X], [Y], {"w1": weight(K, K), "w2": weight(K, N)}, infos=[info("h", "batch", K), info("a", "batch", K)], opset=21, ir=10)
    made.producer_name, made.producer_version, made.domain, made.model_version = "a producer", "1.2.3", "a.domain", 7
    made.doc_string = "the model, \u00e9\u4e16"
    made.metadata_props.add(key="license", value="none")
    graph = made.graph
    graph.doc_string = "the graph"
    graph.metadata_props.add(key="graph", value="yes")
    graph.input[0].doc_string, graph.output[0].doc_string = "an input", "an output"
    graph.value_info[0].doc_string = "a value"
    graph.value_info[0].metadata_props.add(key="value", value="yes")
    graph.node[1].doc_string = "a node"
    graph.node[1].metadata_props.add(key="node", value="yes")
    graph.initializer[0].doc_string = "a weight"
    graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="h")
    return made


@case("names with spaces, slashes, unicode, and names that tnq would take itself", becomes=["a weight/\u00e9", "w"], settings=SOME)
def odd_names():
    first, second = node("MatMul", "x", "h"), node("MatMul", "h", "y")
    first.input.append("a weight/\u00e9")
    second.input.append("w")
    extra = node("Relu", "x", "r")
    extra.output[0] = "w/dense/weight"
    third = node("Concat", "", "z", axis=1)
    third.input[:] = ["w/dense/weight", "y"]
    return model([first, second, extra, third], [X], [info("z", "batch", K + N)], {"a weight/\u00e9": weight(K, K), "w": weight(K, N)})


@case("two nodes of the same name", becomes=["w1", "w2"], settings=FEW, ort="same node name")
def node_names():
    nodes = [node("MatMul", "x w1", "h", name="same"), node("MatMul", "h w2", "g", name="same"), node("Relu", "g", "i", name="twice"),
             node("Relu", "i", "y", name="twice")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "w2": weight(K, N)})


@case("weights that no node uses", becomes=["w"], stays={"unused": "no node"}, settings=FEW)
def unused():
    return model([node("MatMul", "x w", "y"), node("MatMul", "x w", "nobody")], [X], [Y], {"w": weight(K, N), "unused": weight(K, N)})


@case("training information", becomes=["w"], settings=FEW)
def training():
    made = model([node("MatMul", "x w", "y")], [X], [Y], {"w": weight(K, N)})
    step = made.training_info.add()
    step.algorithm.CopyFrom(_graph("step", [node("Sub", "w gradient", "w_new")], [info("gradient", K, N)], [info("w_new", K, N)]))
    step.update_binding.add(key="w", value="w_new")
    return made


@case("Dropout and BatchNormalization in training mode", becomes=["w1", "w2"], settings=FEW, tract="")
def training_mode():
    nodes = [node("MatMul", "x w1", "h"), node("BatchNormalization", "h s b mean var", "n rm rv", training_mode=1), node("Relu", "n", "a"),
             node("Dropout", "a ratio no", "d mask"), node("MatMul", "d w2", "y")]
    weights = {"w1": weight(K, K), "s": 1 + vector(K), "b": vector(K), "mean": vector(K), "var": 1 + np.abs(vector(K)), "ratio": np.float32(0.5),
               "no": np.array(False), "w2": weight(K, N)}
    return model(nodes, [info("x", 8, K)], [info("y", 8, N)], weights)


@case("sequences", becomes=["w1", "w2"], settings=FEW, tract="Sequence")
def sequences():
    nodes = [node("MatMul", "x w1", "h"), node("SequenceConstruct", "h x", "s"), node("ConcatFromSequence", "s", "c", axis=1), node("MatMul", "c w2", "y")]
    return model(nodes, [X], [Y], {"w1": weight(K, K), "w2": weight(2 * K, N)})


@case("optionals", becomes=["w1"], settings=FEW, tract="Optional")
def optionals():
    nodes = [node("MatMul", "x w1", "h"), node("Optional", "h", "o"), node("OptionalGetElement", "o", "y")]
    return model(nodes, [X], [Y], {"w1": weight(K, N)}, opset=18)


@case("operators of several domains", becomes=["w"], settings=FEW, tract="")
def domains():
    nodes = [node("Scaler", "x", "h", domain="ai.onnx.ml", offset=[0.0], scale=[0.5]), node("MatMul", "h w", "g"),
             node("BiasGelu", "g b", "y", domain="com.microsoft")]
    return model(nodes, [X], [Y], {"w": weight(K, N), "b": vector(N)}, domains=[("ai.onnx.ml", 3), ("com.microsoft", 1)])


@case("an operator that nobody knows", becomes=["w"], stays={"t": "no compressed form"}, settings=FEW, tract="", ort="")
def custom():
    nodes = [node("Mystery", "x t", "h", domain="org.example", depth=3), node("MatMul", "h w", "y")]
    return model(nodes, [X], [Y], {"w": weight(K, N), "t": weight(K, K)}, domains=[("org.example", 2)])


@case("a standard operator's name in another domain", becomes=["w"], stays={"t": "no compressed form"}, settings=FEW, ort="")
def custom_matmul():
    nodes = [node("MatMul", "x t", "h", domain="org.example"), node("MatMul", "h w", "y")]
    return model(nodes, [X], [Y], {"w": weight(K, N), "t": weight(K, K)}, domains=[("org.example", 2)])


@case("optional inputs and outputs left out", becomes=["gw", "gr", "w"], settings=FEW)
def left_out():
    nodes = [node("Clip", "x  high", "c"), node("GRU", "c3 gw gr", "  ".strip(), hidden_size=K), node("Squeeze", "last two", "l"),
             node("MatMul", "l w", "y")]
    nodes[1].output[:] = ["", "last"]
    nodes.insert(1, node("Unsqueeze", "c zeroth", "c3"))
    weights = {"high": np.float32(1), "zeroth": np.array([0]), "two": np.array([0]), "gw": vector(3 * K * K).reshape(1, 3 * K, K),
               "gr": vector(3 * K * K).reshape(1, 3 * K, K), "w": weight(K, N)}
    return model(nodes, [X], [Y], weights)


@case("several inputs and outputs of several types", becomes=["w1", "w2"], settings=FEW)
def many_values():
    nodes = [node("Cast", "ids", "f", to=1), node("Where", "mask f x", "s"), node("MatMul", "s w1", "y1"), node("MatMul", "x w2", "h"),
             node("ArgMax", "h", "y2", axis=1, keepdims=0), node("Greater", "y1 zero", "y3")]
    inputs = [X, info("ids", "batch", K, dtype=TensorProto.INT32), info("mask", "batch", K, dtype=TensorProto.BOOL)]
    outputs = [info("y1", "batch", N), info("y2", "batch", dtype=INT64), info("y3", "batch", N, dtype=TensorProto.BOOL)]
    return model(nodes, inputs, outputs, {"w1": weight(K, N), "w2": weight(K, N, seed=1), **ZERO})
