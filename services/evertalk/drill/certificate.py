"""The certificate of a drill: what its history says, signed; and `verify`, which finds it out anew from the history.

The signature (Ed25519, RFC 8032) is over the canonical JSON (sorted keys, no spaces, UTF-8, as in RFC 8785) of every
other field. It says who ran the drill; whether the promises held, `verify` recomputes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from evertalk.core.checker import Report, check
from evertalk.core.errors import EvertalkError
from evertalk.core.history import Fault, History, HistoryDamaged, Returned
from evertalk.drill.recorder import HISTORY, read_history

SCHEMA = "evertalk.drill/1"
CERTIFICATE = "certificate.json"

Certificate = dict[str, Any]


class CertificateError(EvertalkError):
    """A certificate or its key cannot be read; the sentence names the file."""


class Difference(NamedTuple):
    """One thing in which a certificate and its history disagree; `name` is the field's."""

    name: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


# ---------------------------------------------------------------- making one


def write_certificate(directory: Path, key: Ed25519PrivateKey | None = None) -> Certificate:
    """Judge the history in `directory`, sign what it says, and write it there as certificate.json.

    Args:
        key: to sign with; the user's own (`signing_key`) if None.

    Raises:
        HistoryDamaged, CertificateError, OSError.
    """
    history = read_history(directory)
    certificate = sign(build(history, check(history), _sha256(directory)), key or signing_key())
    draft = directory / (CERTIFICATE + ".part")
    draft.write_text(json.dumps(certificate, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, directory / CERTIFICATE)
    return certificate


def read_certificate(directory: Path) -> Certificate:
    """The certificate in `directory`, unchecked.

    Raises:
        CertificateError
    """
    path = directory / CERTIFICATE
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CertificateError(f"there is no {CERTIFICATE} in {directory}") from error
    except OSError as error:
        raise CertificateError(f"{CERTIFICATE} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{CERTIFICATE} is not JSON: {error}") from error
    if not isinstance(certificate, dict) or certificate.get("schema") != SCHEMA:
        raise CertificateError(f"{CERTIFICATE} is no object of schema {SCHEMA}")
    return certificate


def build(history: History, report: Report, history_sha256: str) -> Certificate:
    """Every field of a certificate but the signature and its key."""
    header = history.header
    return {
        "schema": SCHEMA,
        "drill": header.drill,
        "driver": header.driver,
        "seed": header.seed,
        "commit": header.commit,
        "started": header.started,
        "cluster": _plain(header.cluster._asdict()),
        "faults": faults(history),
        "load": header.load._asdict(),
        "counts": report.counts,
        "violations": report.violations,
        "rpo": report.rpo,
        "gap_ms": report.gap_ms,
        "delivery_ms": report.delivery_ms,
        "replication_ms": report.replication_ms,
        "converged_s": report.converged_s,
        "limits": [limit._asdict() for limit in report.limits],
        "verdict": report.verdict,
        "reasons": report.reasons,
        "history_sha256": history_sha256,
    }


def faults(history: History) -> list[dict[str, Any]]:
    """Each fault with its times; `until_s` is its end, or the return of its target, or None."""
    out = []
    returns = [r for r in history.records if isinstance(r, Returned)]
    for fault in history.records:
        if isinstance(fault, Fault):
            back = next((r.t for r in returns if r.target == fault.target and r.t >= fault.t), None)
            until = back if fault.until is None else fault.until
            out.append({"verb": fault.verb, "target": fault.target, "at_s": fault.t, "until_s": until})
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _sha256(directory: Path) -> str:
    sha = hashlib.sha256()
    with (directory / HISTORY).open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


# ---------------------------------------------------------------- signing


def canonical(certificate: Certificate) -> bytes:
    """What is signed: every field but `signature`, as canonical JSON.

    Raises:
        ValueError: a number is not finite, a text is not Unicode.
    """
    signed = {name: value for name, value in certificate.items() if name != "signature"}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sign(certificate: Certificate, key: Ed25519PrivateKey) -> Certificate:
    """The certificate with its public key and signature (both base64)."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    whole = {**certificate, "public_key": base64.b64encode(public).decode()}
    return {**whole, "signature": base64.b64encode(key.sign(canonical(whole))).decode()}


def key_path() -> Path:
    """Where the user's key lies: EVERTALK_DRILL_KEY, or evertalk/drill.key in the XDG state directory."""
    override = os.environ.get("EVERTALK_DRILL_KEY")
    if override:
        return Path(override)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "evertalk" / "drill.key"


def signing_key() -> Ed25519PrivateKey:
    """The user's key, made on first use and readable by nobody else.

    Raises:
        CertificateError: the file holds no Ed25519 key.
        OSError: it cannot be read or made.
    """
    path = key_path()
    if not path.exists():
        _make_key(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} holds no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path} holds a key, but not an Ed25519 one")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle, draft = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
        os.link(draft, path)  # appears whole, and only if nobody else made one meanwhile
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)


# ---------------------------------------------------------------- checking one


def verify(directory: Path) -> list[Difference]:
    """What in a certificate is not so, by its signature and by its history alone; empty if all is.

    Blocks for seconds if the history is long. Raises nothing for bad files: what is wrong with them is the answer.
    """
    try:
        certificate = read_certificate(directory)
    except CertificateError as error:
        return [Difference("certificate", str(error))]
    found = _signature(certificate)
    try:
        history = read_history(directory)
        sha = _sha256(directory)
    except HistoryDamaged as error:
        return [*found, Difference("history", str(error))]
    expected = json.loads(json.dumps(build(history, check(history), sha)))
    for name in sorted((expected.keys() | certificate.keys()) - {"signature", "public_key"}):
        found += _compare(name, certificate.get(name), expected.get(name))
    return found


def _signature(certificate: Certificate) -> list[Difference]:
    try:
        public = base64.b64decode(certificate["public_key"], validate=True)
        signature = base64.b64decode(certificate["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, canonical(certificate))
    except KeyError as error:
        return [Difference("signature", f"the certificate has no {error.args[0]}")]
    except (ValueError, TypeError, binascii.Error) as error:
        return [Difference("signature", f"the signature or its key cannot be read: {error}")]
    except InvalidSignature:
        return [Difference("signature", "the certificate was changed after it was signed")]
    return []


def _compare(name: str, certified: Any, found: Any) -> list[Difference]:
    """Differences of one field, named down to the innermost key of objects."""
    if isinstance(certified, dict) and isinstance(found, dict):
        keys = sorted(certified.keys() | found.keys())
        return [d for key in keys for d in _compare(f"{name}.{key}", certified.get(key), found.get(key))]
    if _same(certified, found):
        return []
    if name == "history_sha256":
        return [Difference(name, "the history is not the one that was certified")]
    return [Difference(name, f"the certificate says {_brief(certified)}, the history {_brief(found)}")]


def _same(one: Any, other: Any) -> bool:
    # 1 == True in Python, and a list of them too; in JSON they differ.
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
