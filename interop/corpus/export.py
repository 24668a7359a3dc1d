#!/usr/bin/env python3
"""Write the models in exported/, each with the exporter that it is named after.

  python interop/corpus/export.py [NAME..]     # all that the installed packages make, or some

No exporter is needed to run the tests: the files are small and stand in the repository. Those that were used are in
exported/versions.txt, which this script keeps.
"""
import importlib.metadata
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "exported"
EXPORTERS = {}


def exporter(packages):
    """Register a function that writes FOLDER/NAME.onnx for its own name."""

    def register(function):
        name = function.__name__.replace("_", "-")
        EXPORTERS[name] = (function, packages.split())
        return function

    return register


def _torch_model(kind):
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Encoder(nn.Module):
        """A table, a transformer layer, and the table again as the head."""

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(100, 32)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
            self.head = nn.Linear(32, 100, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.layer(self.table(ids)))

    class Recurrent(nn.Module):
        """Two recurrent layers and a head."""

        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(24, 32, num_layers=1, batch_first=True, bidirectional=True)
            self.gru = nn.GRU(64, 32, batch_first=True)
            self.head = nn.Linear(32, 48)

        def forward(self, x):
            return self.head(self.gru(self.lstm(x)[0])[0])

    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 48)).eval(), (torch.randn(5, 64),), {0: "batch"}
    if kind == "conv":
        net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
                            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 64))
        return net.eval(), (torch.randn(5, 3, 12, 12),), {0: "batch"}
    if kind == "encoder":
        return Encoder().eval(), (torch.randint(0, 100, (5, 6)),), {0: "batch", 1: "sequence"}
    return Recurrent().eval(), (torch.randn(5, 6, 24),), {0: "batch"}


def _torchscript(kind, path, opset=17):
    import torch
    model, inputs, axes = _torch_model(kind)
    if kind == "encoder":
        axes = {}  # tracing fixes the sizes in its Reshapes
    torch.onnx.export(model, inputs, str(path), dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"], dynamic_axes={"x": axes})


def _dynamo(kind, path):
    import torch
    model, inputs, axes = _torch_model(kind)
    shapes = ({axis: torch.export.Dim(name) for axis, name in axes.items()},)
    program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, external_data=False)
    program.save(str(path), external_data=False)


@exporter("torch")
def torchscript_mlp(path):
    _torchscript("mlp", path)


@exporter("torch")
def torchscript_conv(path):
    _torchscript("conv", path, opset=11)


@exporter("torch")
def torchscript_encoder(path):
    _torchscript("encoder", path)


@exporter("torch")
def torchscript_recurrent(path):
    _torchscript("recurrent", path, opset=13)


@exporter("torch onnxscript")
def dynamo_mlp(path):
    _dynamo("mlp", path)


@exporter("torch onnxscript")
def dynamo_conv(path):
    _dynamo("conv", path)


@exporter("torch onnxscript")
def dynamo_encoder(path):
    _dynamo("encoder", path)


@exporter("torch onnxscript")
def dynamo_cond(path):
    import torch

    class Branches(torch.nn.Module):
        """One of two layers, by the data."""

        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(64, 48), torch.nn.Linear(64, 48)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda v: self.a(v), lambda v: self.b(v), (x,))

    torch.manual_seed(0)
    program = torch.onnx.export(Branches().eval(), (torch.randn(5, 64),), dynamo=True)
    program.save(str(path), external_data=False)


@exporter("torch")
def torch_qat(path):
    import torch
    from torch.ao import quantization

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 48))
    model.qconfig = quantization.QConfig(
        activation=quantization.FakeQuantize.with_args(observer=quantization.MinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8),
        weight=quantization.FakeQuantize.with_args(observer=quantization.MinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
                                                   qscheme=torch.per_tensor_symmetric))
    model = quantization.prepare_qat(model.train())
    model(torch.randn(50, 64))
    model.apply(quantization.disable_observer)
    torch.onnx.export(model.eval(), (torch.randn(5, 64),), str(path), dynamo=False, opset_version=17, input_names=["x"],
                      dynamic_axes={"x": {0: "batch"}})


def _data(columns=40):
    random = np.random.default_rng(0)
    x = random.standard_normal((120, columns)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


def _sklearn(estimator, path):
    from skl2onnx import to_onnx
    x, y = _data()
    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else {}
    path.write_bytes(to_onnx(estimator.fit(x, y), x[:1], options=options, target_opset=17).SerializeToString())


@exporter("skl2onnx scikit-learn")
def skl2onnx_mlp(path):
    from sklearn.neural_network import MLPClassifier
    _sklearn(MLPClassifier((64, 32), max_iter=5, random_state=0), path)


@exporter("skl2onnx scikit-learn")
def skl2onnx_pipeline(path):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    _sklearn(make_pipeline(StandardScaler(), PCA(20, random_state=0), LogisticRegression()), path)


@exporter("skl2onnx scikit-learn")
def skl2onnx_neighbors(path):
    from sklearn.neighbors import KNeighborsClassifier
    _sklearn(KNeighborsClassifier(3), path)


@exporter("onnxmltools lightgbm")
def onnxmltools_lightgbm(path):
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType
    x, y = _data(8)
    model = lightgbm.LGBMClassifier(n_estimators=4, num_leaves=4, verbose=-1).fit(x, y)
    path.write_bytes(convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, 8]))], zipmap=False).SerializeToString())


@exporter("onnxruntime")
def onnxruntime_dynamic(path):
    from onnxruntime.quantization import quantize_dynamic
    quantize_dynamic(str(FOLDER / "torchscript-mlp.onnx"), str(path))


@exporter("onnxruntime")
def onnxruntime_nbits(path):
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    quantizer = MatMulNBitsQuantizer(onnx.load(FOLDER / "torchscript-encoder.onnx"), block_size=32, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


@exporter("onnxscript")
def onnxscript_functions(path):
    import onnx
    from onnxscript import FLOAT, opset18, script
    from onnxscript.values import Opset

    # A script finds the names that it uses in its module.
    globals().update(op=opset18, FLOAT=FLOAT)

    @script(Opset("local", 1))
    def layer(x, w):
        return op.Relu(op.MatMul(x, w))  # noqa: F821

    globals().update(layer=layer)

    @script(default_opset=opset18)
    def main(x: FLOAT["batch", 64], w: FLOAT[64, 64]) -> FLOAT["batch", 64]:
        x = layer(x, w)
        return layer(x, w)

    made = main.to_model_proto()
    weight = (np.random.default_rng(0).standard_normal((64, 64)) / 8).astype(np.float32)
    del made.graph.input[1]
    made.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(made, path)


@exporter("jax2onnx jax")
def jax2onnx_mlp(path):
    import jax
    import jax2onnx
    import onnx
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    first, second = jax.random.normal(keys[0], (64, 96)) / 8, jax.random.normal(keys[1], (96, 48)) / 10
    made = jax2onnx.to_onnx(lambda x: jax.nn.gelu(x @ first) @ second + 0.1, [("B", 64)])
    if not isinstance(made, onnx.ModelProto):
        import onnx_ir
        made = onnx_ir.to_proto(made)
    onnx.save(made, path)


@exporter("paddlepaddle paddle2onnx")
def paddle2onnx_mlp(path):
    import paddle
    paddle.seed(0)
    net = paddle.nn.Sequential(paddle.nn.Linear(64, 96), paddle.nn.GELU(), paddle.nn.Linear(96, 48))
    net.eval()
    paddle.onnx.export(net, str(path.with_suffix("")), input_spec=[paddle.static.InputSpec([None, 64], "float32", "x")], opset_version=13)


@exporter("tensorflow-cpu tf2onnx")
def tf2onnx_keras(path):
    import keras
    import tensorflow as tf
    import tf2onnx
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.MaxPooling2D(),
                              keras.layers.Flatten(), keras.layers.Dense(48, activation="relu"), keras.layers.Dense(32)])
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32, "x")])
    tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=15, output_path=str(path))


@exporter("tensorflow-cpu tf2onnx")
def tf2onnx_lstm(path):
    import keras
    import tensorflow as tf
    import tf2onnx
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 24)), keras.layers.LSTM(32, return_sequences=True), keras.layers.Dense(48)])
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec([None, 6, 24], tf.float32, "x")])
    tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=15, output_path=str(path))


@exporter("tensorflow-cpu keras")
def keras_export(path):
    import keras
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(96, activation="gelu"), keras.layers.LayerNormalization(), keras.layers.Dense(48)])
    model(np.zeros((1, 64), np.float32))
    model.export(str(path), format="onnx", verbose=False)


def main(names):
    """Make what can be made; say what cannot."""
    FOLDER.mkdir(exist_ok=True)
    table = FOLDER / "versions.txt"
    known = dict(line.split(": ", 1) for line in table.read_text().splitlines()) if table.exists() else {}
    for name in names or EXPORTERS:
        function, packages = EXPORTERS[name]
        try:
            versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
            function(FOLDER / f"{name}.onnx")
        except Exception as error:  # noqa: BLE001: one exporter that is absent or fails leaves the others
            print(f"{name}: not made: {type(error).__name__}: {str(error)[:300]}")
            continue
        known[name] = versions
        print(f"{name}: {(FOLDER / f'{name}.onnx').stat().st_size} bytes, {versions}")
    table.write_text("".join(f"{name}: {known[name]}\n" for name in sorted(known)))


if __name__ == "__main__":
    main(sys.argv[1:])
