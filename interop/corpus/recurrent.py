"""Recurrent layers and attention."""
import numpy as np

from .case import FEW, case, info, model, node, vector, weight

I, H, T = 24, 32, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(op, directions=1, opset=17, bias=True, **attributes):
    gates = GATES[op]
    direction = {1: "forward", 2: "bidirectional"}[directions]
    weights = {"w": weight(directions, gates * H, I), "r": weight(directions, gates * H, H, seed=1)}
    names = "x w r"
    if bias:
        weights["b"] = vector(directions * 2 * gates * H).reshape(directions, -1)
        names += " b"
    nodes = [node(op, names, "h", hidden_size=H, direction=direction, **attributes),
             node("Transpose", "h", "y", perm=[2, 0, 1, 3])]
    return model(nodes, [info("x", T, 3, I)], [info("y", 3, T, directions, H)], weights, opset=opset)


BOTH = ["w", "r"]
ANY = ("dense-8", "dense-4", "auto")


@case("LSTM", becomes=BOTH, settings=ANY)
def lstm():
    return _recurrent("LSTM")


@case("LSTM of both directions", becomes=BOTH, settings=ANY)
def lstm_bidirectional():
    return _recurrent("LSTM", 2)


@case("LSTM of opset 7 without bias", becomes=BOTH, settings=FEW)
def lstm_opset_7():
    return _recurrent("LSTM", opset=7, bias=False)


@case("GRU, linear before reset", becomes=BOTH, settings=ANY)
def gru():
    return _recurrent("GRU", linear_before_reset=1)


@case("GRU of both directions", becomes=BOTH, settings=FEW)
def gru_bidirectional():
    return _recurrent("GRU", 2)


@case("RNN", becomes=BOTH, settings=ANY)
def rnn():
    return _recurrent("RNN")


@case("LSTM with states and peepholes, and a layer behind it", becomes=["w", "r", "head"], settings=ANY)
def lstm_full():
    weights = {"w": weight(1, 4 * H, I), "r": weight(1, 4 * H, H, seed=1), "b": vector(8 * H).reshape(1, -1),
               "p": vector(3 * H).reshape(1, -1), "h0": vector(3 * H).reshape(1, 3, H), "c0": vector(3 * H).reshape(1, 3, H),
               "axis": np.array([1]), "head": weight(H, 64)}
    nodes = [node("LSTM", "x w r b  h0 c0 p", "h last", hidden_size=H), node("Squeeze", "h axis", "s"), node("MatMul", "s head", "y")]
    return model(nodes, [info("x", T, 3, I)], [info("y", T, 3, 64)], weights)


D, HEADS = 32, 4


def _heads(nodes, of, name, perm):
    nodes += [node("MatMul", f"{of} w_{name}", f"{name}0"), node("Add", f"{name}0 b_{name}", f"{name}1"),
              node("Reshape", f"{name}1 split", f"{name}2"), node("Transpose", f"{name}2", name, perm=perm)]


@case("self-attention of MatMuls", becomes=["w_q", "w_k", "w_v", "w_o"], settings=("dense-8", "auto", "low-rank-3", "tucker-8"))
def attention_matmul():
    nodes = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        _heads(nodes, "x", name, perm)
    nodes += [node("MatMul", "q k", "s0"), node("Mul", "s0 scale", "s1"), node("Softmax", "s1", "p", axis=-1),
              node("MatMul", "p v", "o0"), node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]), node("Reshape", "o1 join", "o2"),
              node("MatMul", "o2 w_o", "y")]
    weights = {f"w_{n}": weight(D, D, seed=k) for k, n in enumerate("qkvo")} | {f"b_{n}": vector(D) for n in "qkv"}
    weights |= {"split": np.array([0, 0, HEADS, D // HEADS]), "join": np.array([0, 0, D]), "scale": np.float32(0.35)}
    return model(nodes, [info("x", "batch", "s", D)], [info("y", "batch", "s", D)], weights)


@case("Attention of opset 23", becomes=["w_q", "w_k", "w_v"], settings=FEW)
def attention_23():
    nodes = [node("MatMul", f"x w_{n}", n) for n in "qkv"]
    nodes += [node("Attention", "q k v", "y", q_num_heads=HEADS, kv_num_heads=HEADS)]
    return model(nodes, [info("x", "batch", 5, D)], [info("y", "batch", 5, D)],
                 {f"w_{n}": weight(D, D, seed=k) for k, n in enumerate("qkv")}, opset=23)


@case("com.microsoft Attention", becomes=["w"], tract="panicked", settings=FEW)
def attention_microsoft():
    return model([node("Attention", "x w b", "y", num_heads=HEADS, domain="com.microsoft")], [info("x", "batch", "s", D)],
                 [info("y", "batch", "s", D)], {"w": weight(D, 3 * D), "b": vector(3 * D)}, domains=[("com.microsoft", 1)])
