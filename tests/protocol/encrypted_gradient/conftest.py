import os

import numpy as np
import pytest

from protos.encrypted_gradient.feature_holder import PreparedColumns, QueryKey, multiply_residuals, open_folded, unmask
from protos.encrypted_gradient.label_holder import LabelKey, announce_key, encrypt_residuals, fold_products
from protos.encrypted_gradient.session import QueryBudget, SessionTerms, SlotShape
from protos.encrypted_gradient.support import CheckedColumns
from protos.sealed_sum.keys import SigningKey


class Pair:
    """One label holder, `lender`, and one feature holder, `shipper`, with real keys and ciphertexts."""

    def __init__(self, rows, columns, repeat=3, *, noisy=False, seed=0, passes=8):
        generator = np.random.default_rng(seed)
        self.rng = os.urandom
        self.label_identity = SigningKey.from_bytes(os.urandom(32))
        self.feature_identity = SigningKey.from_bytes(os.urandom(32))
        self.shape = SlotShape(rows, repeat)
        self.terms = SessionTerms(bytes(32), "lender", {"shipper": columns}, self.shape, bytes(32), passes)
        self.levels = generator.integers(0, 128, (rows, columns)).astype(np.uint8)
        self.residuals = generator.uniform(-1, 1, rows)
        self.key = LabelKey.generate()
        self.announced = announce_key(self.key, self.terms, self.label_identity)
        self.query_key = QueryKey(self.announced, self.terms, self.label_identity.public_bytes)
        self.budget = QueryBudget(10 * rows if not noisy else rows, noisy=noisy)

    def prepared(self, **changes):
        known = changes.pop("known", None)
        return PreparedColumns(self.checked(**changes), "lender", self.shape, known=known)

    def checked(self, levels=None, min_rows=50):
        return CheckedColumns({"lender": self.levels if levels is None else levels}, min_rows)

    def encrypt(self, pass_number=0, residuals=None):
        values = self.residuals if residuals is None else residuals
        return encrypt_residuals(self.key, self.terms, pass_number, values, self.rng, self.label_identity)

    def multiply(self, query, pass_number=0, prepared=None):
        return multiply_residuals(
            prepared or self.prepared(),
            query,
            self.query_key,
            self.terms,
            pass_number,
            feature_holder="shipper",
            label_identity_key=self.label_identity.public_bytes,
            rng=self.rng,
            identity=self.feature_identity,
        )

    def fold(self, products, pass_number=0, **changes):
        folded = fold_products(
            self.key,
            self.terms,
            pass_number,
            products,
            feature_holder="shipper",
            identity_key=self.feature_identity.public_bytes,
            rng=self.rng,
            identity=self.label_identity,
            **{"budget": self.budget, **changes},
        )
        self.budget = folded.budget
        return folded.message

    def open(self, folded, pass_number=0, columns=None):
        return open_folded(
            folded,
            self.terms,
            pass_number,
            feature_holder="shipper",
            columns=columns or self.levels.shape[1],
            label_identity_key=self.label_identity.public_bytes,
        )

    def gradient(self, pass_number=0, prepared=None):
        answer = self.multiply(self.encrypt(pass_number), pass_number, prepared)
        return unmask([self.open(self.fold(answer.message, pass_number), pass_number)], [answer.mask_sums])

    def expected(self):
        return np.rint(self.residuals * 511).astype(np.int64) @ self.levels.astype(np.int64) / (511 * 127)


@pytest.fixture
def make_pair():
    return Pair
