"""Refuse ONNX files whose tensors are in other files: opening one reads any file of its user.

An external tensor names a path, offset and length, and ONNX Runtime loads it from there: a model
could give away a password byte by byte as scores. The file is read here by the fields that can hold
a tensor; all others are skipped by protobuf. Field numbers: onnx.proto of ONNX 1.19.
"""

from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from services.platform.models.refused import ModelRefused

# By message, its fields: name, number, and the message it holds ("" for a number).
_FIELDS = {
    "External": (),
    "Tensor": (("external_data", 13, "External"), ("data_location", 14, "")),
    "SparseTensor": (("values", 1, "Tensor"), ("indices", 2, "Tensor")),
    "Attribute": (
        ("t", 5, "Tensor"), ("g", 6, "Graph"), ("tensors", 10, "Tensor"), ("graphs", 11, "Graph"),
        ("sparse_tensor", 22, "SparseTensor"), ("sparse_tensors", 23, "SparseTensor"),
    ),
    "Node": (("attribute", 5, "Attribute"),),
    "Graph": (
        ("node", 1, "Node"), ("initializer", 5, "Tensor"),
        ("sparse_initializer", 15, "SparseTensor"),
    ),
    "Training": (("initialization", 1, "Graph"), ("algorithm", 2, "Graph")),
    "Function": (("node", 7, "Node"), ("attribute_proto", 11, "Attribute")),
    "Model": (("graph", 7, "Graph"), ("training_info", 20, "Training"),
              ("functions", 25, "Function")),
}  # fmt: skip
_PACKAGE = "whiteboard.external_data"
# ONNX Runtime's own format, which it recognises by these bytes, is no protobuf.
_ORT_FORMAT = slice(4, 8), b"ORTM"


def refuse_external_data(model: bytes) -> None:
    """ModelRefused if a tensor of an ONNX file is in another file, or if it is not ONNX."""
    where, mark = _ORT_FORMAT
    if model[where] == mark:
        raise ModelRefused("not a model: in ONNX Runtime's own format")
    try:
        found = _model_class().FromString(model)
    except DecodeError:
        raise ModelRefused("not a model: no ONNX file") from None
    if _is_external(found):
        raise ModelRefused("its tensors are in other files (external data)")


def _is_external(message: Message) -> bool:
    for field, value in message.ListFields():
        if field.name in ("external_data", "data_location"):
            if any(value):
                return True
        elif any(map(_is_external, value)):
            return True
    return False


@lru_cache(maxsize=1)
def _model_class() -> Any:
    """The message `Model`. Every field is repeated: reading is the same, but nothing is merged."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="external_data.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, held in fields:
            message.field.add(
                name=field, number=number, label=kinds.LABEL_REPEATED,
                type=kinds.TYPE_MESSAGE if held else kinds.TYPE_INT32,
                type_name=f".{_PACKAGE}.{held}" if held else None,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))
