"""Make the golden vectors of the sealed sum with other libraries than the product's.

Product: `cryptography` (OpenSSL) and numpy. Here: pycryptodome 3.24 (ChaCha20, ChaCha20-Poly1305, X25519, Ed25519),
sympy 1.14 (Shamir polynomials, primes) and hashlib/hmac with Python integers for everything else. Nothing of
`protos` is imported. Run `python tests/vectors/make_vectors.py`; the output is byte for byte the committed JSON.
"""

import hashlib
import hmac
import json
from fractions import Fraction
from math import isqrt
from pathlib import Path

import sympy
from Crypto.Cipher import ChaCha20, ChaCha20_Poly1305
from Crypto.Protocol.DH import key_agreement
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

HERE = Path(__file__).parent
PROTOCOL = "tallystick/sealed-sum/1"
T = 4503599627149313
PRIMES = (68719230977, 68719403009)
KEY_PRIMES = (*PRIMES, 137438822401)
FIELD = 2**521 - 1
DEGREE, DATA_SLOTS = 4096, 4093


def named(name, length=32):
    """Fixed bytes that look random: nothing up a sleeve."""
    return hashlib.shake_256(f"vector {name}".encode()).digest(length)


def encode(domain, *parts):
    out = b""
    for part in (f"{PROTOCOL}/{domain}", *parts):
        item = part.encode() if isinstance(part, str) else part.to_bytes(8, "little") if isinstance(part, int) else part
        out += len(item).to_bytes(8, "little") + item
    return out


def digest(domain, *parts):
    return hashlib.sha256(encode(domain, *parts)).digest()


def hkdf(ikm, salt, info, length=32):
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
    return out[:length]


def words(seed, count):
    stream, out = ChaCha20.new(key=seed, nonce=bytes(8)), []
    while len(out) < count:
        word = int.from_bytes(stream.encrypt(bytes(8)), "little") % 2**52
        if word < T:
            out.append(word)
    return out


def x25519(secret, public):
    return key_agreement(
        static_priv=ECC.construct(curve="Curve25519", seed=secret),
        static_pub=ECC.construct(curve="Curve25519", point_x=int.from_bytes(public, "little")),
        kdf=lambda shared: shared,
    )


def x25519_public(secret):
    return int(ECC.construct(curve="Curve25519", seed=secret).pointQ.x).to_bytes(32, "little")


def masks():
    rows = []
    for name in ("mask one", "mask two"):
        seed = named(name)
        out = words(seed, 5000)
        text = b"".join(word.to_bytes(8, "little") for word in out)
        rows.append({"seed": seed.hex(), "first": out[:6], "count": 5000, "sha256": hashlib.sha256(text).hexdigest()})
    return rows


def pairwise():
    rows = []
    for k, header in ((0, "header a"), (1, "header a"), (1, "header b")):
        low, high = named("masking low"), named("masking high")
        info = encode("sum/pairwise-seed", named("epoch"), k, named(header), "bank-a", "bank-b")
        shared = x25519(low, x25519_public(high))
        rows.append(
            {
                "bank-a": low.hex(),
                "bank-b": high.hex(),
                "bank-a public": x25519_public(low).hex(),
                "bank-b public": x25519_public(high).hex(),
                "agreement_hash": named("agreement").hex(),
                "epoch_id": named("epoch").hex(),
                "k": k,
                "header_digest": named(header).hex(),
                "seed": hkdf(shared, named("agreement"), info).hex(),
            }
        )
    return rows


def sealed_shares():
    key, nonce, associated = named("aead key"), named("nonce", 12), encode("sum/share-key", named("epoch"), 1)
    cipher = ChaCha20_Poly1305.new(key=key, nonce=nonce)
    cipher.update(associated)
    sealed, tag = cipher.encrypt_and_digest(named("share", 66))
    return [
        {
            "key": key.hex(),
            "nonce": nonce.hex(),
            "associated": associated.hex(),
            "plaintext": named("share", 66).hex(),
            "sealed": (sealed + tag).hex(),
        }
    ]


def signatures():
    key = ECC.construct(curve="Ed25519", seed=named("identity"))
    body = named("message", 200)
    message = encode("signature/upload", hashlib.sha256(body).digest())
    return [
        {
            "private": named("identity").hex(),
            "public": key.public_key().export_key(format="raw").hex(),
            "domain": "upload",
            "body": body.hex(),
            "signature": eddsa.new(key, "rfc8032").sign(message).hex(),
        }
    ]


def shamir():
    rows, x = [], sympy.symbols("x")
    for threshold, points in ((2, (2, 3)), (3, (1, 3, 4, 5)), (5, (1, 2, 4, 6, 7, 8))):
        secret = named(f"secret {threshold}", 64)
        higher = [
            int.from_bytes(named(f"coefficient {threshold} {i}", 66), "big") % 2**521 for i in range(1, threshold)
        ]
        polynomial = sympy.Poly([*reversed(higher), int.from_bytes(secret, "big")], x, modulus=FIELD)
        shares = {str(p): (int(polynomial.eval(p)) % FIELD).to_bytes(66, "big").hex() for p in points}
        # The other way round: interpolation over the rationals, then modulo the prime.
        subset = list(shares.items())[:threshold]
        at_zero = sum(
            (
                Fraction(int(y, 16)) * sympy_product(Fraction(-int(b), int(a) - int(b)) for b, _ in subset if b != a)
                for a, y in subset
            ),
            Fraction(0),
        )
        again = at_zero.numerator * int(sympy.mod_inverse(at_zero.denominator, FIELD)) % FIELD
        assert again == int.from_bytes(secret, "big")
        randomness = [named(f"coefficient {threshold} {i}", 66).hex() for i in range(1, threshold)]
        rows.append({"threshold": threshold, "secret": secret.hex(), "randomness": randomness, "shares": shares})
    return rows


def sympy_product(factors):
    out = Fraction(1)
    for factor in factors:
        out *= factor
    return out


def tags():
    key, epoch, header = named("tag key"), named("epoch"), named("header a")
    count = 2
    rng = words(named("tag data"), count * DATA_SLOTS)
    data = [rng[i * DATA_SLOTS : (i + 1) * DATA_SLOTS] for i in range(count)]
    rho = words(hkdf(key, epoch, encode("tag/roster", header, "bank-a")), count)
    r = words(hkdf(key, epoch, encode("tag/linear", header)), count * DATA_SLOTS)
    rows = []
    for i in range(count):
        keys = r[i * DATA_SLOTS : (i + 1) * DATA_SLOTS]
        low = sum((word % 2**26) * value for word, value in zip(keys, data[i], strict=True)) % T
        high = sum((word >> 26) * value for word, value in zip(keys, data[i], strict=True)) % T
        rows.append([rho[i], low, high])
    return {
        "tag_key": key.hex(),
        "epoch_id": epoch.hex(),
        "header_digest": header.hex(),
        "member": "bank-a",
        "data_seed": named("tag data").hex(),
        "tags": rows,
    }


def layouts():
    """Mixed radix by hand: n = 5, a one-limb field and a three-limb field."""
    n = 5
    width = isqrt(T)
    base = (width - 1) // n + 1
    small = [0, 1, 250_000, 1_000_000]
    large = [0, 2**51, 2**52 - 1]
    limbs = list(small)
    for power in range(3):
        limbs += [value // base**power % base if power < 2 else value // base**2 for value in large]
    limbs += [0] * (len(limbs) % 2)
    half = len(limbs) // 2
    return {
        "cohort": n,
        "limb_base": base,
        "small": [value * 2.0**-10 - 100.0 for value in small],
        "large": [float(value) for value in large],
        "slots": [limbs[i] + width * limbs[half + i] for i in range(half)],
    }


def packed_residues():
    pairs = [(0, 0), (PRIMES[0] - 1, 1), (1, PRIMES[1] - 1), (0x123456789, 0xABCDEF012)]
    return [{"pair": [a, b], "bytes": (a | b << 36).to_bytes(9, "little").hex()} for a, b in pairs]


def good():
    assert sympy.isprime(T)
    assert T % (2 * DEGREE) == 1
    assert all(sympy.isprime(p) and p % (2 * DEGREE) == 1 for p in KEY_PRIMES)
    assert sympy.isprime(FIELD)
    header = (
        named("epoch"),
        3,
        "train",
        "credit",
        "step",
        named("layout"),
        named("model"),
        named("parameters"),
        bytes(32),
    )
    return {
        "encode": {
            "domain": "example",
            "parts": ["text", 7, "00ff"],
            "bytes": encode("example", "text", 7, b"\0\xff").hex(),
        },
        "parameters_digest": digest("parameters", DEGREE, T, *KEY_PRIMES, 36, 3, DATA_SLOTS).hex(),
        "header": {
            "fields": [part.hex() if isinstance(part, bytes) else part for part in header],
            "digest": digest("header", *header).hex(),
        },
        "dealer_order": {
            "epoch_id": named("epoch").hex(),
            "order": sorted(
                ["bank-a", "bank-b", "pay-a", "pay-b"], key=lambda member: digest("deal/order", named("epoch"), member)
            ),
        },
        "masks": masks(),
        "pairwise_seeds": pairwise(),
        "sealed_shares": sealed_shares(),
        "signatures": signatures(),
        "shamir": shamir(),
        "tags": tags(),
        "layout": layouts(),
        "packed_residues": packed_residues(),
    }


def bad():
    share, signature = sealed_shares()[0], signatures()[0]
    sealed = bytes.fromhex(share["sealed"])
    order8 = [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ]
    primes = [2**255 - 19 - 1, 2**255 - 19, 2**255 - 19 + 1]
    return {
        "small_order_public_keys": [
            bytes(32).hex(),
            (1).to_bytes(32, "little").hex(),
            *order8,
            *(value.to_bytes(32, "little").hex() for value in primes),
        ],
        "sealed_shares": [
            share | {"why": "one bit of the ciphertext", "sealed": (bytes([sealed[0] ^ 1]) + sealed[1:]).hex()},
            share | {"why": "one bit of the tag", "sealed": (sealed[:-1] + bytes([sealed[-1] ^ 1])).hex()},
            share | {"why": "truncated", "sealed": sealed[:-1].hex()},
            share | {"why": "empty", "sealed": ""},
            share | {"why": "another sum", "associated": encode("sum/share-key", named("epoch"), 2).hex()},
            share | {"why": "another key", "key": named("other key").hex()},
        ],
        "signatures": [
            signature | {"why": "another domain", "domain": "shares"},
            signature | {"why": "another body", "body": named("other", 200).hex()},
            signature | {"why": "another key", "public": named("not a key").hex()},
            signature | {"why": "zero", "signature": bytes(64).hex()},
            signature | {"why": "short", "signature": signature["signature"][:-2]},
            signature
            | {
                "why": "malleated: S + L",
                "signature": malleated(bytes.fromhex(signature["signature"])).hex(),
            },
        ],
        "shares": [
            {"why": "the prime itself", "share": FIELD.to_bytes(66, "big").hex()},
            {"why": "above the prime", "share": "ff" * 66},
            {"why": "short", "share": "00" * 65},
            {"why": "long", "share": "00" * 67},
            {"why": "empty", "share": ""},
        ],
        "packed_residues": [
            {"why": "first is its prime", "bytes": PRIMES[0].to_bytes(9, "little").hex()},
            {"why": "second is its prime", "bytes": (PRIMES[0] << 36).to_bytes(9, "little").hex()},
            {"why": "all ones", "bytes": "ff" * 9},
        ],
        "bounds": [[4, 1, 3, 2], [5, 1, 4, 2], [5, 2, 4, 3], [4, 1, 3, 3], [5, 2, 4, 4], [3, 2, 3, 2], [2, 0, 2, 1]],
    }


def malleated(signature):
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    return signature[:32] + s.to_bytes(32, "little")


if __name__ == "__main__":
    for name, vectors in (("sealed_sum_good", good()), ("sealed_sum_bad", bad())):
        (HERE / f"{name}.json").write_text(json.dumps(vectors, indent=1) + "\n")
