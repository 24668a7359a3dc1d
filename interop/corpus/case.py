"""What a case of the corpus is, and the shorthand that cases are made with."""
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64

# Options of `tnq compress`; the first is the one that snapshots are of.
SETTINGS = {
    "dense-8": "--format dense --bits 8",
    "auto": "",
    "dense-4": "--format dense --bits 4 --granularity axis",
    "low-rank-3": "--format low-rank --ranks 6 --bits 3",
    "split-8": "--format tt --layout split --ranks 6",
    "interleaved-4": "--format tt --layout interleaved --ranks 6 --bits 4 --scheme affine",
    "train-8": "--format tt --ranks 6",
    "tucker-8": "--format tucker --ranks 6 --granularity block:16",
}
FEW = ("dense-8", "low-rank-3")
TABLES = (*FEW, "train-8", "split-8", "interleaved-4")
SOME = ("dense-8", "auto", "low-rank-3", "interleaved-4")
ALL = tuple(SETTINGS)


@dataclass(frozen=True)
class Case:
    """A model and what is known about it."""

    name: str
    make: object
    # The bullet of real-world content that it stands for.
    covers: str
    settings: tuple = SOME
    # Names of the weights that dense codes replace; None where that is not fixed.
    becomes: frozenset | None = None
    # Weights that stay, with a part of the reason.
    stays: dict = field(default_factory=dict)
    # Sizes of open dimensions; 5 for all others.
    sizes: dict = field(default_factory=dict)
    # Inputs that are no standard normal numbers: by name, a function of the random generator and the shape.
    inputs: dict = field(default_factory=dict)
    # A part of the error with which tract refuses the original model; None where it runs it.
    tract: str | None = None
    # The same of ONNX Runtime, and of onnx's full checker.
    ort: str | None = None
    checker: str | None = None
    # The largest relative L2 between the compressed model and its dense reconstruction.
    tolerance: float = 1e-5
    # Why tract's answer for the original is not ONNX Runtime's; None where it is.
    engines_differ: str | None = None

    def write(self, folder):
        """Make the model in a folder; give its path."""
        path = Path(folder) / "model.onnx"
        made = self.make(Path(folder))
        if isinstance(made, bytes):
            path.write_bytes(made)
        elif made is not None:
            onnx.save(made, path)
        return path

    def arrays(self, model):
        """One array for each input that a caller gives."""
        random = np.random.default_rng(1)
        given = {tensor.name for tensor in model.graph.initializer}
        given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
        found = {}
        for info in model.graph.input:
            if info.name in given:
                continue
            tensor = info.type.tensor_type
            shape = [d.dim_value or self.sizes.get(d.dim_param, 5) for d in tensor.shape.dim]
            if info.name in self.inputs:
                found[info.name] = np.asarray(self.inputs[info.name](random, shape))
                continue
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if tensor.elem_type == TensorProto.BOOL:
                found[info.name] = random.integers(0, 2, shape).astype(bool)
            elif np.issubdtype(dtype, np.integer):
                found[info.name] = random.integers(0, 8, shape).astype(dtype)
            else:
                found[info.name] = random.standard_normal(shape).astype(np.float32).astype(dtype)
        return found


CASES = {}


def case(covers, *, becomes=None, **known):
    """Register a function as a case under its own name. It takes nothing, or the folder that the model goes to."""

    def register(function):
        name = function.__name__.strip("_").replace("_", "-")
        assert name not in CASES, name
        takes_folder = function.__code__.co_argcount > 0
        CASES[name] = Case(name, function if takes_folder else lambda _: function(), covers,
                           becomes=None if becomes is None else frozenset(becomes), **known)
        return function

    return register


def weight(*shape, seed=0, dtype=np.float32):
    """Numbers whose matrices fall off in rank, as those of trained layers do; the size of a row's sum stays about 1."""
    random = np.random.default_rng(seed)
    rows, cols = int(np.prod(shape[:-1])), shape[-1]
    rank = min(rows, cols)
    left, right = random.standard_normal((rows, rank)), random.standard_normal((rank, cols))
    decay = 0.8 ** np.arange(rank)
    return ((left * decay) @ right / np.sqrt(cols)).reshape(shape).astype(dtype)


def vector(size, seed=9, dtype=np.float32):
    """A small bias."""
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(dtype)


def tensor(name, array):
    """An initializer."""
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def info(name, *shape, dtype=FLOAT):
    """An input, output or value of these sizes; strings are open ones."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def node(op, inputs, outputs, **attributes):
    """A node; inputs and outputs in one string."""
    name = attributes.pop("name", None)
    domain = attributes.pop("domain", None)
    made = helper.make_node(op, inputs.split(" ") if inputs else [], outputs.split(), name=name, domain=domain)
    made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return made


def model(nodes, inputs, outputs, weights=None, *, opset=17, ir=None, domains=(), functions=(), infos=(), name="graph"):
    """A model of the standard operators of an opset, with others' domains beside it."""
    weights = weights or {}
    stored = [array if isinstance(array, TensorProto) else tensor(key, array) for key, array in weights.items()]
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*d) for d in domains)]
    ir = ir or helper.find_min_ir_version_for(imports, ignore_unknown=True)
    if ir < 4:
        given = {i.name for i in inputs}
        inputs = [*inputs, *(info(t.name, *t.dims, dtype=t.data_type) for t in stored if t.name not in given)]
    graph = helper.make_graph(nodes, name, inputs, outputs, stored, value_info=list(infos))
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    made.ir_version = ir
    return made
