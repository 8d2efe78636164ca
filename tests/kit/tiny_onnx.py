"""A one-layer ONNX classifier, written byte by byte: the mean of each of the three input channels."""

from pathlib import Path


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 127
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def _field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def make_tiny_onnx(file: Path, side: int = 8) -> str:
    node = _field(1, "picture") + _field(2, "means") + _field(4, "GlobalAveragePool")
    graph = _field(1, node) + _field(2, "tiny") + _field(11, _value("picture", (1, 3, side, side)))
    graph += _field(12, _value("means", (1, 3, 1, 1)))
    file.write_bytes(_field(1, 7) + _field(7, graph) + _field(8, _field(2, 13)))
    return str(file)
