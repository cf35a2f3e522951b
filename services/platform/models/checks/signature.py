"""Signatures of served models: promotion signs, and serving verifies before it loads.

A signed file is the ONNX file with one more entry of metadata at its end, so it is still one ONNX
file and one object, and never half replaced. The entry states design, role, version, the digest of
all bytes before it, and when it was signed; Ed25519 (RFC 8032) signs the statement. An older
statement never replaces a newer one, so a former champion cannot be put back past promotion.
"""

import hashlib
import time
from dataclasses import asdict, dataclass

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.platform.models.refused import ModelRefused
from services.platform.secret_files import make_pair, read_secret
from services.platform.settings import PROMOTION, Settings

_KEY = b"whiteboard.signature"
# Field 14 of ModelProto, `metadata_props`; fields 1 and 2 of its entries, key and value.
_ENTRY, _NAME, _VALUE = b"\x72", b"\x0a", b"\x12"
_MARK = _NAME + bytes([len(_KEY)]) + _KEY + _VALUE
_DOMAIN = b"whiteboard served model\n"


@dataclass(frozen=True)
class Statement:
    """What promotion says about a file.

    Attributes:
        sha256: Digest of the file without the signature.
        at: When it was signed, seconds since the epoch.
    """

    design: str
    role: str
    version: int
    sha256: str
    at: float

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is of."""
        return _DOMAIN + orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)


def sign(settings: Settings, model: bytes, design: str, role: str, version: int) -> bytes:
    """A model file with its signature, by the key of this installation, made where it is missing.

    Args:
        model: An ONNX file; a signature it has is replaced.
    """
    seed = settings.signing_key.get_secret_value() or make_key(settings)
    model = split(model)[0]
    digest = hashlib.sha256(model).hexdigest()
    statement = Statement(design, role, version, digest, time.time())
    signature = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).sign(
        statement.signed_bytes
    )
    return model + _entry(orjson.dumps({**asdict(statement), "signature": signature.hex()}))


def verified(settings: Settings, data: bytes, design: str, role: str) -> tuple[bytes, Statement]:
    """A signed file's model and statement.

    Raises:
        ModelRefused: it is not signed by this installation, or for another design or role.
    """
    model, value = split(data)
    if not value:
        raise ModelRefused("not signed: only promotion signs, `whiteboard swap` promotes")
    try:
        found = orjson.loads(value)
        signature = bytes.fromhex(found.pop("signature"))
        statement = Statement(**found)
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(settings.plain_verify_key))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ModelRefused("its signature is unreadable, or there is no key here") from None
    try:
        key.verify(signature, statement.signed_bytes)
    except InvalidSignature:
        raise ModelRefused("its signature is not by this installation's promotion") from None
    if statement.sha256 != hashlib.sha256(model).hexdigest():
        raise ModelRefused("it is not the file that was signed")
    if (statement.design, statement.role) != (design, role):
        raise ModelRefused(f"signed as {statement.role} of {statement.design!r}")
    return model, statement


def split(data: bytes) -> tuple[bytes, bytes]:
    """A file without its signature, and the signature's entry; empty if it has none.

    >>> split(b"model" + _entry(b"{}")), split(b"model")
    ((b'model', b'{}'), (b'model', b''))
    """
    at = data.rfind(_MARK)
    if at < 0:
        return data, b""
    value = _field_value(data[at + len(_MARK) :])
    entry = _entry(value)
    return (data[: -len(entry)], value) if data.endswith(entry) else (data, b"")


def has_key(settings: Settings) -> bool:
    """Whether this installation has a key to sign with."""
    return bool(settings.signing_key.get_secret_value() or read_secret(settings.home, PROMOTION))


def make_key(settings: Settings) -> str:
    """The key of this home, made unless it exists."""
    return make_pair(settings.home, PROMOTION, new_pair)[0]


def new_pair() -> tuple[str, str]:
    """A private and a public key, hexadecimal."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes_raw().hex(), key.public_key().public_bytes_raw().hex()


def _entry(value: bytes) -> bytes:
    """A metadata entry of an ONNX file."""
    held = _MARK + _varint(len(value)) + value
    return _ENTRY + _varint(len(held)) + held


def _varint(number: int) -> bytes:
    r"""Protobuf's variable-length number.

    >>> _varint(5), _varint(300)
    (b'\x05', b'\xac\x02')
    """
    low, rest = number & 0x7F, number >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + _varint(rest)


def _field_value(data: bytes) -> bytes:
    """The bytes after a length; what does not fit its length is not ours, and is not found."""
    for size in (1, 2, 3):
        value = data[size:]
        if data[:size] == _varint(len(value)):
            return value
    return b""
