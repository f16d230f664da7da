"""Names made comparable: letters of any script as plain lower-case Latin words, without legal forms.

Transliteration is anyascii's, character by character. That finds Cyrillic, Greek, Chinese (as Mandarin), Korean and
accented Latin names. It does not find vowels that a script leaves out: Arabic and Hebrew names are found only when the
list has them in that script, or under an alias that comes close. Japanese names in characters are read as Mandarin.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from anyascii import anyascii

from policies.closed_model import shown
from policies.errors import UserError

MAX_NAME_CHARACTERS = 350
"""As long as OFAC's layout allows."""
MAX_ROTATIONS = 6

_FIRST_EAST_ASIAN = 0x2E80
_WITHIN_WORDS = re.compile(r"[.'’`´ʹʺ]")
_BETWEEN_WORDS = re.compile(r"[^a-z0-9]+")

_LEGAL_FORM = re.compile(
    "ab|ag|aps|as|bhd|bv|co|company|corp|corporation|doo|eood|fzc|fzco|fze|gmbh|inc|incorporated|jsc|kft|kg|lda|"
    "limitada|limited|llc|llp|lp|ltd|ltda|mbh|nv|oao|ojsc|ood|ooo|oy|oyj|pao|pjsc|plc|pte|pty|sa|sae|sal|sarl|sas|"
    "sdn|sl|sp|spa|srl|sro|zao"
)
"""Words that say what kind of company it is, which many share and few write alike."""


class ScreeningRefused(UserError):
    """A list or a name that screening cannot work with: nobody is cleared by it."""


@dataclass(frozen=True)
class ComparableName:
    """A name as it is compared.

    Attributes:
        tokens: Its words, in the order written.
        sorted_text: The words in alphabetical order, with spaces: blind to order.
        compact: The words as written, without spaces: blind to where a word ends.
    """

    tokens: tuple[str, ...]
    sorted_text: str
    compact: str

    def rotations(self) -> tuple[str, ...]:
        """The compact form started at each of the first words: a family name may stand first or last."""
        count = min(len(self.tokens), MAX_ROTATIONS)
        return tuple(dict.fromkeys("".join((*self.tokens[k:], *self.tokens[:k])) for k in range(count)))


def comparable(name: str) -> ComparableName:
    """A name made comparable.

    Raises:
        ScreeningRefused: Longer than 350 characters, or nothing in it that could be compared.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise ScreeningRefused(
            f"expected a name of at most {MAX_NAME_CHARACTERS} characters, found {len(name)}; shorten it."
        )
    latin = "".join(_latin(character) for character in unicodedata.normalize("NFKC", name)).lower()
    words = _BETWEEN_WORDS.sub(" ", _WITHIN_WORDS.sub("", latin)).split()
    telling = [word for word in words if not _LEGAL_FORM.fullmatch(word)] or words
    if not telling:
        raise ScreeningRefused(
            f"expected a name with letters or digits, found {shown(name)}; write it out, or nobody can be cleared."
        )
    return ComparableName(tuple(telling), " ".join(sorted(telling)), "".join(telling))


def _latin(character: str) -> str:
    """One character in Latin letters; a character that is a word or syllable by itself becomes one."""
    text = anyascii(character)
    return f" {text}" if ord(character) >= _FIRST_EAST_ASIAN else text
