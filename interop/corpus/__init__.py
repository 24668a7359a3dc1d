"""A corpus of small models: everything that real ONNX files contain, one function per case."""
from . import constants, convolution, dense, elements, exported, quantized, recurrent, structure, tables  # noqa: F401
from .case import CASES, Case  # noqa: F401
