"""Make the golden vectors of the private set intersection without the product's libraries.

Product: `cryptography` (OpenSSL) and numpy. Here: the Montgomery ladder of RFC 7748 in Python integers, HMAC and
SHA-256 of hashlib, ChaCha20 and ChaCha20-Poly1305 of pycryptodome 3.24. Nothing of `protos` is imported. Run
`python tests/vectors/make_intersection_vectors.py`; the output is byte for byte the committed JSON.
"""

import hashlib
import hmac
import json
from pathlib import Path

from Crypto.Cipher import ChaCha20, ChaCha20_Poly1305

HERE = Path(__file__).parent
PROTOCOL = "tallystick/sealed-sum/1"
P = 2**255 - 19
A24 = 121665


def named(name, length=32):
    """Fixed bytes that look random: nothing up a sleeve."""
    return hashlib.shake_256(f"intersection vector {name}".encode()).digest(length)


def encode(domain, *parts):
    out = b""
    for part in (f"{PROTOCOL}/{domain}", *parts):
        item = part.encode() if isinstance(part, str) else part.to_bytes(8, "little") if isinstance(part, int) else part
        out += len(item).to_bytes(8, "little") + item
    return out


def hkdf(ikm, salt, info):
    """RFC 5869, 32 bytes: one block."""
    return hmac.new(hmac.new(salt, ikm, hashlib.sha256).digest(), info + b"\x01", hashlib.sha256).digest()


def x25519(scalar, u):
    """RFC 7748 section 5, written after the text."""
    k = int.from_bytes(scalar, "little")
    k = (k & ((1 << 254) - 8)) | (1 << 254)
    x1 = (int.from_bytes(u, "little") & ((1 << 255) - 1)) % P
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b = (x2 + z2) % P, (x2 - z2) % P
        aa, bb = a * a % P, b * b % P
        e = (aa - bb) % P
        c, d = (x3 + z3) % P, (x3 - z3) % P
        da, cb = d * a % P, c * b % P
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + A24 * e) % P
    if swap:
        x2, x3, z2, z3 = x3, x2, z3, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def members_key(tag_key, agreement, epoch):
    return hkdf(tag_key, agreement, encode("alignment/members-key", epoch))


def element(key, kind, normal):
    keyed = hmac.new(key, encode("alignment/identifier", kind) + normal.encode(), hashlib.sha256).digest()
    u = bytearray(hashlib.sha256(keyed).digest())
    u[31] &= 0x7F
    return bytes(u)


def legendre(u):
    """Whether a u-coordinate is on the curve (v^2 = u^3 + 486662 u^2 + u) or on its twist."""
    x = int.from_bytes(u, "little") % P
    return "curve" if pow((x**3 + 486662 * x * x + x) % P, (P - 1) // 2, P) == 1 else "twist"


IDENTIFIERS = (
    ("text", "  Zoë   Müller ", "zoë müller"),
    ("text", "ACME GmbH", "acme gmbh"),
    ("digits", "DE-1", None),
    ("digits", "0049 123/45", "004912345"),
    ("code", "gb 999-9973", "GB9999973"),
    ("email", "Ops@Example.ORG", "ops@example.org"),
    ("phone", "+86 (10) 6552-9988", "+861065529988"),
    ("phone", "0086 10 6552 9988", None),
)


def vectors():
    agreement, epoch, tag_key = named("agreement"), named("epoch"), named("tag key")
    key = members_key(tag_key, agreement, epoch)
    a, b = named("label holder's scalar"), named("feature holder's scalar")
    session = hashlib.sha256(encode("alignment/session", epoch, "bank-a", "payment-b")).digest()
    rows = []
    for kind, raw, normal in IDENTIFIERS:
        row = {"type": kind, "identifier": raw, "normal": normal}
        if normal is not None:
            u = element(key, kind, normal)
            both = x25519(b, x25519(a, u))
            assert both == x25519(a, x25519(b, u))
            row |= {
                "element": u.hex(),
                "on": legendre(u),
                "blinded_by_label_holder": x25519(a, u).hex(),
                "blinded_by_feature_holder": x25519(b, u).hex(),
                "digest": hashlib.sha256(b"tallystick/alignment/digest/1" + session + both).digest()[:16].hex(),
            }
        rows.append(row)
    seed = named("order")
    stream = ChaCha20.new(key=seed, nonce=bytes(8)).encrypt(bytes(8 * 12))
    draws = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(12)]
    shared, nonce, body = named("shared"), named("nonce", 12), b"a chunk's body"
    info = encode("alignment/chunk", session, "bank-a", "payment-b", 3, 17)
    cipher = ChaCha20_Poly1305.new(key=hkdf(shared, agreement, info), nonce=nonce)
    cipher.update(info)
    sealed, tag = cipher.encrypt_and_digest(body)
    return {
        "agreement_hash": agreement.hex(),
        "epoch_id": epoch.hex(),
        "tag_key": tag_key.hex(),
        "members_key": key.hex(),
        "label_holder_scalar": a.hex(),
        "feature_holder_scalar": b.hex(),
        "session": session.hex(),
        "identifiers": rows,
        "order": {"seed": seed.hex(), "places": sorted(range(12), key=draws.__getitem__)},
        "chunk": {
            "shared": shared.hex(),
            "nonce": nonce.hex(),
            "sender": "bank-a",
            "recipient": "payment-b",
            "kind": 3,
            "number": 17,
            "body": body.hex(),
            "sealed": (sealed + tag).hex(),
        },
        # RFC 7748, section 5.2: the ladder above is checked against these when the file is made.
        "rfc7748": [
            {
                "scalar": "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "u": "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "out": "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            },
            {
                "scalar": "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "u": "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "out": "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            },
        ],
    }


def main():
    made = vectors()
    for vector in made["rfc7748"]:
        assert x25519(bytes.fromhex(vector["scalar"]), bytes.fromhex(vector["u"])).hex() == vector["out"]
    assert {row["on"] for row in made["identifiers"] if "on" in row} == {"curve", "twist"}
    (HERE / "intersection_good.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
