"""What a model file carries besides its graph: named bytes in the metadata of the ONNX file.

A file stays whole through registration, promotion, rollback and SageMaker's model folder, so what
belongs to one version cannot be mistaken for another's. Metadata is text: bytes are base64.
"""

import base64
import binascii
from collections.abc import Mapping

_PREFIX = "whiteboard."


def attach(model: bytes, attachments: Mapping[str, bytes]) -> bytes:
    """An ONNX file with attachments, which replace those of the same names."""
    if not attachments:
        return model
    # Only training attaches, so serving does not need the onnx package.
    import onnx

    proto = onnx.load_model_from_string(model)
    names = {_PREFIX + name: data for name, data in attachments.items()}
    kept = [p for p in proto.metadata_props if p.key not in names]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for name, content in names.items():
        proto.metadata_props.add(key=name, value=base64.b64encode(content).decode())
    data: bytes = proto.SerializeToString()
    return data


def attachment(metadata: Mapping[str, str], name: str) -> bytes | None:
    """An attachment from a file's metadata; None if the file has none of that name.

    >>> attachment({"whiteboard.reasons": "aGk="}, "reasons")
    b'hi'

    Raises:
        ValueError: it is not base64.
    """
    text = metadata.get(_PREFIX + name)
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"unreadable attachment {name!r}: {error}") from None
