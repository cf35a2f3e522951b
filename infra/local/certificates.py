"""Certificates for TLS between parts of one program: SeaweedFS's, and Flower's.

The authority signs one certificate and its key is not kept: no other can be made.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.platform.secret_files import make_private, write_private

_VALID = timedelta(days=3650)
_RENEW_BEFORE = timedelta(days=90)

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "node.pem", "node.key"


def ensure_certificates(folder: Path, name: str) -> None:
    """Make what `write_certificates` makes, unless it is there and not about to expire.

    Args:
        folder: Where `AUTHORITY`, `CERTIFICATE` and `KEY` are.
        name: Common name and host name of the certificate.
    """
    if not _valid(folder / CERTIFICATE):
        write_certificates(folder, name, [name])


def write_certificates(folder: Path, name: str, hosts: Iterable[str]) -> None:
    """Write a new authority's certificate, and a certificate and key for both ends of a connection.

    Args:
        folder: For `AUTHORITY`, `CERTIFICATE` and `KEY`.
        name: Common name of the certificate.
        hosts: Host names and IP addresses that it is valid for.
    """
    make_private(folder)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name(f"{name} authority")
    authority = (
        _builder(issuer, issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    certificate = (
        _builder(_name(name), issuer, key.public_key())
        .add_extension(alternatives, critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(folder / AUTHORITY, authority.public_bytes(pem))
    write_private(folder / KEY, private)
    write_private(folder / CERTIFICATE, certificate.public_bytes(pem))


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _valid(path: Path) -> bool:
    if not path.exists():
        return False
    found = x509.load_pem_x509_certificate(path.read_bytes())
    return datetime.now(UTC) + _RENEW_BEFORE < found.not_valid_after_utc


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _VALID)
    )
