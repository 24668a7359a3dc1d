"""Tables that rows are looked up in, alone and tied to a layer."""
import numpy as np

from .case import FEW, INT32, INT64, SOME, TABLES, case, info, model, node, vector, weight

ROWS, SIZE = 200, 32
IDS = info("ids", "batch", "s", dtype=INT64)
LOOK = {"ids": lambda random, shape: random.integers(0, ROWS, shape)}
TRAINS = ("train-8", "split-8", "interleaved-4", "auto")
E_OUT = info("y", "batch", "s", SIZE)


@case("embedding", settings=TABLES, inputs=LOOK)
def embedding():
    return model([node("Gather", "table ids", "y")], [IDS], [E_OUT], {"table": weight(ROWS, SIZE)})


@case("embeddings of tokens, positions and kinds, added and normalized", settings=TABLES, inputs=LOOK)
def embedding_sum():
    nodes = [node("Gather", "tokens ids", "t"), node("Gather", "kinds zero", "k"), node("Add", "t k", "s"),
             node("Add", "s positions", "p"), node("LayerNormalization", "p scale shift", "n"), node("MatMul", "n w", "y")]
    weights = {"tokens": weight(ROWS, SIZE), "kinds": weight(2, SIZE), "zero": np.array([0]), "positions": weight(5, SIZE),
               "scale": 1 + vector(SIZE), "shift": vector(SIZE), "w": weight(SIZE, 64)}
    return model(nodes, [info("ids", "batch", 5, dtype=INT64)], [info("y", "batch", 5, 64)], weights)


@case("embedding with negative indices", settings=TABLES,
      inputs={"ids": lambda random, shape: random.integers(-ROWS, ROWS, shape)})
def embedding_negative():
    return model([node("Gather", "table ids", "y")], [IDS], [E_OUT], {"table": weight(ROWS, SIZE)})


@case("embedding as a train of three cores, its rows padded, read from both ends by int32", settings=TRAINS,
      inputs={"ids": lambda random, shape: random.integers(-211, 211, shape).astype(np.int32)})
def embedding_train():
    return model([node("Gather", "table ids", "y")], [info("ids", "batch", "s", dtype=INT32)], [E_OUT], {"table": weight(211, SIZE)})


@case("embedding as a train, one row by a scalar", settings=TRAINS, tract="expected to match fact",
      inputs={"id": lambda random, shape: random.integers(-ROWS, ROWS)})
def embedding_train_scalar():
    return model([node("Gather", "table id", "y")], [info("id", dtype=INT64)], [info("y", SIZE)], {"table": weight(ROWS, SIZE)})


@case("embedding as a train, looked up in twice, by three axes and by no index at all", settings=TRAINS, inputs=LOOK, sizes={"empty": 0})
def embedding_train_shapes():
    nodes = [node("Gather", "table ids", "a"), node("Gather", "table none", "b"), node("ReduceSum", "b one", "c"),
             node("Unsqueeze", "c one", "d"), node("Add", "a d", "y")]
    return model(nodes, [info("ids", "batch", 2, 3, dtype=INT64), info("none", "batch", "empty", dtype=INT64)],
                 [info("y", "batch", 2, 3, SIZE)], {"table": weight(ROWS, SIZE), "one": np.array([1])})


@case("embedding as a train at opset 10, the first with Mod", settings=TRAINS, inputs=LOOK)
def embedding_train_opset_10():
    return model([node("Gather", "table ids", "y")], [IDS], [E_OUT], {"table": weight(ROWS, SIZE)}, opset=10)


@case("Gather along the second axis", settings=FEW, inputs={"ids": lambda random, shape: random.integers(0, SIZE, shape)})
def gather_columns():
    return model([node("Gather", "table ids", "y", axis=1)], [info("ids", 5, dtype=INT64)], [info("y", ROWS, 5)],
                 {"table": weight(ROWS, SIZE)})


@case("float16 embedding", settings=FEW, inputs=LOOK, tolerance=3e-3)
def embedding_float16():
    return model([node("Gather", "table ids", "h"), node("Cast", "h", "y", to=1)], [IDS], [E_OUT],
                 {"table": weight(ROWS, SIZE, dtype=np.float16)})


@case("tied: a table and the layer that reads it transposed", settings=SOME, inputs=LOOK)
def tied_transpose():
    nodes = [node("Gather", "table ids", "e"), node("Tanh", "e", "h"), node("Transpose", "table", "w", perm=[1, 0]),
             node("MatMul", "h w", "y")]
    return model(nodes, [IDS], [info("y", "batch", "s", ROWS)], {"table": weight(ROWS, SIZE)})


@case("tied: a table and a Gemm with transB", settings=SOME, inputs=LOOK)
def tied_gemm():
    nodes = [node("Gather", "table ids", "e"), node("Tanh", "e", "h"), node("Gemm", "h table b", "y", transB=1)]
    return model(nodes, [info("ids", "batch", dtype=INT64)], [info("y", "batch", ROWS)],
                 {"table": weight(ROWS, SIZE), "b": vector(ROWS)})


@case("GatherElements and GatherND on tables", settings=FEW, becomes=[], inputs=LOOK)
def gather_others():
    nodes = [node("GatherElements", "a ids", "e", axis=0), node("Unsqueeze", "ids last", "u"), node("GatherND", "b u", "g"),
             node("Unsqueeze", "e last", "ee"), node("Add", "g ee", "y")]
    return model(nodes, [info("ids", 5, 4, dtype=INT64)], [info("y", 5, 4, SIZE)],
                 {"a": weight(ROWS, 4), "b": weight(ROWS, SIZE), "last": np.array([-1])})
