"""The dense matrix that a rewritten layer multiplies by, found by numpy alone (onnx's reference evaluator)."""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def layer_of(model, weight):
    """The one MatMul or Gemm that uses a weight, or the one Gather that looks up its rows."""
    products = [node for node in model.graph.node if weight in node.input[1:2] and node.op_type in ("MatMul", "Gemm")]
    lookups = [node for node in model.graph.node if weight in node.input[:1] and node.op_type == "Gather"]
    (node,) = products + lookups
    return node


def part(model, start, end, rank, start_type=TensorProto.FLOAT):
    """The part of a model that computes the value `end` from the value `start` and constants."""
    producers = {output: node for node in model.graph.node for output in node.output}
    wanted, constants, made = [end], set(), set()
    while wanted:
        value = wanted.pop()
        if value == start or value in made:
            continue
        if value in producers:
            made.add(value)
            wanted.extend(producers[value].input)
        else:
            constants.add(value)
    nodes = [node for node in model.graph.node if made.intersection(node.output)]
    assert not constants.intersection(i.name for i in model.graph.input), f"{end} needs more than {start}"
    graph = helper.make_graph(
        nodes, "part",
        [helper.make_tensor_value_info(start, start_type, [None] * rank)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, [None] * rank)],
        [tensor for tensor in model.graph.initializer if tensor.name in constants],
    )
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version))


def dense_matrix(before, after, weight):
    """`[N, M]`, so that the rewritten layer computes `x @ matrix + bias`: its answer to the unit vectors. A table's rows."""
    node = layer_of(before, weight)
    stored = next(tensor for tensor in before.graph.initializer if tensor.name == weight)
    if node.op_type == "Gather":
        run = part(after, node.input[1], node.output[0], 2, TensorProto.INT64)
        (answer,) = run.run(None, {node.input[1]: np.arange(stored.dims[0])[None]})
        return answer[0], False
    out_first = any(a.name == "transB" and a.i for a in node.attribute)
    inputs = stored.dims[1] if out_first else stored.dims[0]
    rank = 2 if node.op_type == "Gemm" else 3
    run = part(after, node.input[0], node.output[0], rank)
    unit = np.eye(inputs, dtype=np.float32)
    unit = unit if rank == 2 else unit[None]
    (answer,) = run.run(None, {node.input[0]: unit})
    (bias,) = run.run(None, {node.input[0]: np.zeros_like(unit)})
    return (answer - bias).reshape(inputs, -1), out_first


def with_dense_layers(before, after, weights):
    """The original model with the matrices of the rewritten one in the place of its own."""
    dense = onnx.ModelProto()
    dense.CopyFrom(before)
    tensors = {tensor.name: tensor for tensor in dense.graph.initializer}
    for weight in weights:
        matrix, out_first = dense_matrix(before, after, weight["name"])
        original = numpy_helper.to_array(tensors[weight["name"]])
        matrix = np.ascontiguousarray(matrix.T if out_first else matrix)
        error = float(np.linalg.norm(matrix - original) / np.linalg.norm(original))
        # The report measured the same error on the cores themselves, before they became operators.
        assert abs(error - weight["error"]) <= 1e-3 * error + 1e-6, f"{weight['name']}: {error}, reported {weight['error']}"
        tensors[weight["name"]].CopyFrom(numpy_helper.from_array(matrix, weight["name"]))
    return dense
