"""Reads and writes the containers of tn-formats/FORMAT.md with numpy and safetensors.

    pip install numpy safetensors
"""
import json
import math
import struct
import zlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save


def unpack(codes, bits, signed, count):
    """Codes of a packed byte string, lowest bit first."""
    stream = np.unpackbits(codes.view(np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    values = stream.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
    return np.where(values >= 1 << (bits - 1), values - (1 << bits), values) if signed else values


def pack(codes, bits):
    """The inverse of `unpack`."""
    stream = (codes.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8).ravel(), bitorder="little")


def spread(groups, shape, granularity):
    """One value per group as an array that broadcasts to `shape`."""
    if granularity == "per_tensor":
        return groups.reshape([1] * len(shape))
    if "per_axis" in granularity:
        axis = granularity["per_axis"]["axis"]
        return groups.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    axis, size = granularity["per_block"]["axis"], granularity["per_block"]["block_size"]
    blocks = [math.ceil(n / size) if k == axis else n for k, n in enumerate(shape)]
    return np.take(np.repeat(groups.reshape(blocks), size, axis=axis), np.arange(shape[axis]), axis=axis)


def names_of(part):
    """The tensors of a part in the order of the checksum."""
    if "scheme" not in part:
        return [part["name"]]
    kinds = ["codes", "scales"] + (["zero_points"] if part["scheme"]["mapping"] == "affine" else [])
    return [f"{part['name']}.{kind}" for kind in kinds]


def read(path):
    """(header, float arrays of the parts)."""
    with safe_open(path, framework="numpy") as file:
        text, expected = file.metadata()["tnq"], file.metadata()["tnq.crc32"]
        header = json.loads(text)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    crc = zlib.crc32(text.encode())
    for part in header["parts"]:
        for name in names_of(part):
            crc = zlib.crc32(tensors[name].tobytes(), crc)
    assert f"{crc:08x}" == expected, (crc, expected)
    return header, [part_values(part, tensors) for part in header["parts"]]


def part_values(part, tensors):
    if "scheme" not in part:
        return tensors[part["name"]]
    name, shape, scheme = part["name"], part["shape"], part["scheme"]
    bits, signed = scheme["bits"], scheme["signedness"] == "signed"
    codes = tensors[f"{name}.codes"]
    if bits < 8:
        codes = unpack(codes, bits, signed, math.prod(shape))
    codes = codes.astype(np.float32).reshape(shape)
    if scheme["mapping"] == "affine":
        zeros = spread(tensors[f"{name}.zero_points"], shape, scheme["granularity"])
    else:
        zeros = 0 if signed else 1 << (bits - 1)
    return (codes - zeros).astype(np.float32) * spread(tensors[f"{name}.scales"], shape, scheme["granularity"])


def dense(header, parts):
    """The dense array in float64."""
    parts = [p.astype(np.float64) for p in parts]
    if header["kind"] == "tucker":
        out = parts[0]
        for axis, factor in enumerate(parts[1:]):
            out = np.moveaxis(np.tensordot(factor, out, axes=(1, axis)), 0, axis)
        return out
    out = parts[0]
    for core in parts[1:]:
        out = np.tensordot(out, core, axes=1)
    out = out[0, ..., 0]
    if header["kind"] == "tensor_train":
        return out
    modes = header["modes"]
    rows, cols = math.prod(modes["row_modes"]), math.prod(modes["col_modes"])
    if modes["layout"] == "split":
        return out.reshape(cols, rows).T
    order = [2 * k for k in range(out.ndim // 2)] + [2 * k + 1 for k in range(out.ndim // 2)]
    return out.transpose(order).reshape(rows, cols)


def write(header, tensors):
    """The bytes of a container; `tensors` by name, as FORMAT.md asks for them."""
    text = json.dumps(header)
    crc = zlib.crc32(text.encode())
    for part in header["parts"]:
        for name in names_of(part):
            crc = zlib.crc32(np.ascontiguousarray(tensors[name]).tobytes(), crc)
    return with_sorted_metadata(save(tensors), {"tnq": text, "tnq.crc32": f"{crc:08x}"})


def with_sorted_metadata(file, metadata):
    """`save` leaves the order of metadata keys to chance: put them into the header here, so that equal arrays give equal bytes."""
    (length,) = struct.unpack("<Q", file[:8])
    header = {"__metadata__": metadata} | json.loads(file[8 : 8 + length])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + file[8 + length :]
