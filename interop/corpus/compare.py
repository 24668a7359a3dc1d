"""What of a model a rewrite has to leave as it was, and a model as text."""
import onnx
from onnx import TensorProto, helper

ATTRIBUTE_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def graphs(model):
    """Every list of nodes of a model: the main graph's, subgraphs', functions'."""
    yield from _graphs(model.graph)
    for function in model.functions:
        yield function
        for node in function.node:
            yield from _inner(node)


def _graphs(graph):
    yield graph
    for node in graph.node:
        yield from _inner(node)


def _inner(node):
    for attribute in node.attribute:
        if attribute.type in ATTRIBUTE_GRAPHS:
            for graph in (attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                yield from _graphs(graph)


def changes(before, after):
    """What a rewrite may not touch and did, as texts."""
    found = []

    def same(what, a, b):
        if a != b:
            found.append(f"{what}: {str(a)[:200]!r} became {str(b)[:200]!r}")

    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        same(field, getattr(before, field), getattr(after, field))
    for field in ("opset_import", "metadata_props", "training_info"):
        same(field, list(getattr(before, field)), list(getattr(after, field)))
    signature = [(f.domain, f.name, f.overload, list(f.input), list(f.output), list(f.attribute), list(f.attribute_proto), f.doc_string,
                  list(f.opset_import)) for f in before.functions]
    same("functions", signature, [(f.domain, f.name, f.overload, list(f.input), list(f.output), list(f.attribute), list(f.attribute_proto),
                                   f.doc_string, list(f.opset_import)) for f in after.functions])
    old, new = before.graph, after.graph
    for field in ("name", "doc_string"):
        same(f"graph {field}", getattr(old, field), getattr(new, field))
    for field in ("metadata_props", "quantization_annotation", "sparse_initializer", "output"):
        same(f"graph {field}", list(getattr(old, field)), list(getattr(new, field)))
    weights = {t.name for t in old.initializer} | {t.name for t in new.initializer}
    same("inputs", [i for i in old.input if i.name not in weights], [i for i in new.input if i.name not in weights])
    infos = {info.name: info for info in old.value_info}
    defined = {name for node in new.node for name in node.output} | {t.name for t in new.initializer}
    kept = {info.name: info for info in new.value_info}
    for name, info in infos.items():
        if name in defined and name not in weights:
            same(f"value info {name}", info, kept.get(name))
    for name in kept:
        if name not in infos:
            found.append(f"value info {name} is new")
    _nodes(found, before, after)
    return found


def _nodes(found, before, after):
    """Every node that a rewritten weight does not touch is still there, in its order, word for word."""
    known = {node.SerializeToString() for graph in graphs(after) for node in graph.node}
    gone = [node for graph in graphs(before) for node in graph.node if node.SerializeToString() not in known]
    allowed = {"MatMul", "Gemm", "Constant", "Identity", "Cast", "Transpose", "Reshape", "If", "Loop", "Scan", "Conv", "ConvTranspose",
               "Gather", "Squeeze", "Unsqueeze"}
    found.extend(f"{node.op_type} {list(node.output)} is gone" for node in gone if node.op_type not in allowed)


def text(model):
    """A model's structure: operators, names, shapes, types; no numbers."""
    lines = []
    _graph_text(model.graph, "", lines)
    for function in model.functions:
        lines.append(f"function {function.domain}.{function.name}({', '.join(function.input)}) -> {', '.join(function.output)}")
        _nodes_text(function.node, "  ", lines)
    return "\n".join(lines) + "\n"


def _tensor_text(tensor):
    return f"{TensorProto.DataType.Name(tensor.data_type).lower()}{list(tensor.dims)}"


def _graph_text(graph, indent, lines):
    lines.append(f"{indent}graph({', '.join(i.name for i in graph.input)}) -> {', '.join(o.name for o in graph.output)}")
    lines.extend(f"{indent}  {tensor.name} = {_tensor_text(tensor)}" for tensor in graph.initializer)
    _nodes_text(graph.node, indent + "  ", lines)


def _nodes_text(nodes, indent, lines):
    for node in nodes:
        attributes, inner = [], []
        for attribute in node.attribute:
            if attribute.type in ATTRIBUTE_GRAPHS:
                inner.append(attribute)
            elif attribute.ref_attr_name:
                attributes.append(f"{attribute.name}=@{attribute.ref_attr_name}")
            elif attribute.type == onnx.AttributeProto.TENSOR:
                attributes.append(f"{attribute.name}={_tensor_text(attribute.t)}")
            else:
                value = helper.get_attribute_value(attribute)
                attributes.append(f"{attribute.name}={'..' if len(str(value)) > 60 else value}")
        domain = f"{node.domain}." if node.domain else ""
        tail = f" {{{', '.join(attributes)}}}" if attributes else ""
        lines.append(f"{indent}{', '.join(node.output)} = {domain}{node.op_type}({', '.join(node.input)}){tail}")
        for attribute in inner:
            for graph in (attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                lines.append(f"{indent}  {attribute.name}:")
                _graph_text(graph, indent + "    ", lines)
