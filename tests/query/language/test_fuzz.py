"""100,000 texts, right, half-right and wrong: none does anything but answer or be refused, and at once.

Texts are made from what the registry knows, so what is added to the language is met here too.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from vlq.query.answers.asked import Asked
from vlq.query.errors import VlqError
from vlq.query.language.parse import parse
from vlq.query.language.registry import REQUIRED, Signature, functions, methods

from ...examples import some
from ..corpora import Case

TEXTS = some(60_000)
ASKED = 30
"""One in so many of the texts that are queries is asked of a corpus."""

SECOND = 1.0

T = TypeVar("T")


def parts(text: str) -> list[str]:
    """What stands between wide gaps."""
    return re.split(r"\n| {2,}", text.strip())


ATOMS = parts(
    r"""
'dog'  '▁dog'  'ear'  'beach'  'no such word'  ''  '\x00'  '\ud800'  '%'  '); DROP TABLE images; --'  '$token'
'(((('  '(a+)+$'  0  1  2  3  5  -1  1.5  0.5  1e-300  1e308  1e999  nan  999999999999999999999999999999  2**63
True  False  None  ()  []  (1, 3)  (3, 1)  [0, 2]  (1, 2, 3)  ['dog', 'ear']  ['dog', ['ear', 3]]  label  image
layer  logprob  objects  width  error  image_id  sha256  patches  no_such_column  __class__  __import__
label == 'beach'  layer < 3  'dog' in objects  width > 1e300  not label  label in ['beach', 'snow']  0 <= layer <= 2
image == None  matching('^d')  matching('(')  prefix('dachshund')  prefix('')
"""
)
TOKENS = ("'dog'", "'▁dog'", "'ear'", "3", "['dog', 'ear']", "matching('^d')", "['dog', ['ear', 3]]", "7000", "[2, 4]")
CONDITIONS = (
    "label == 'beach'",
    "'dog' in objects",
    "width > 10",
    "not label == 'snow'",
    "image_id < 3 or label == 'x'",
)
FITTING = {
    "token": TOKENS,
    "a": TOKENS,
    "b": TOKENS,
    "ablate": ("readings('dog')", "'dog'", "[0, 1]"),
    "on": TOKENS,
    "words": (*TOKENS, "None"),
    "mode": ("'mean'", "'zero'"),
    "buffer": ("0", "1"),
    "kind": ("'all'", "'random'"),
    "combinations": ("'regions'",),
    "at": ("'patch'", "'last'", "'prompt'"),
    "by": ("'image'", "'patch'", "'corpus'"),
    "layers": ("1", "(0, 1)", "[0, 1]", "None"),
    "layer": ("0", "1"),
    "rank": ("1", "2"),
    "patch": ("0", "1"),
    "min_prob": ("0.1", "0.5"),
    "min_patches": ("1", "2"),
    "min_run": ("1", "2"),
    "min_images": ("1", "2"),
    "missing": ("'never'",),
    "pieces": ("True", "False"),
    "share": ("0.5", "1"),
    "unit": ("'image'", "'position'"),
    "image": ("0", "1", "'no.png'"),
    "images": CONDITIONS,
    "condition": (*CONDITIONS, "layer < 2", "logprob > -3"),
    "text": ("'d'", "'dog'", "''"),
    "count": ("3", "0"),
    "columns": ("layer", "image", "label"),
    "seed": ("1",),
    "descending": ("True",),
}
"""What the arguments mostly get; of other names anything."""

HOSTILE = [
    *parts(
        r"""
().__class__.__base__.__subclasses__()  __import__('os').system('true')  open('/etc/passwd')  exec('1')  lambda: 0
[x for x in (1, 2)]  f'{1}'  (a := 1)  {}  {1}  a[0]  *a  first_layer.__globals__  await a  yield  1 if 1 else 2
...  b'dog'  1j  a @ b  ~a  a ** b  a // b  a << b  #  “dog”  𝐟irst_layer('dog')  ﬁrst_layer(1)  ; 1  = 5  0x  1_0
0777  '''  "
"""
    ),
    *"\0\x1a\t\r\u2028\ufeff",
    "\\\n",
]
OPERATORS = parts("<  <=  >  >=  ==  !=  in  not in  +  -  *  /  and  or  &  is  %  <>  ,")


class Maker:
    """Makes texts, the same ones every time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._functions = list(functions().values())
        self._methods = list(methods().values())

    def text(self) -> str:
        text = self._expression(self._random.choice((0, 0, 1, 1, 2, 3)))
        while self._random.random() < 0.35:
            text = self._broken(text)
        return text

    def _expression(self, depth: int) -> str:
        if depth == 0:
            return self._call(0)
        draw = self._random.random()
        inner = self._expression(depth - 1)
        if draw < 0.4:
            other = self._one([self._expression(depth - 1), self._one(ATOMS)])
            return f"{self._bracketed(inner)} {self._one(OPERATORS)} {self._bracketed(other)}"
        if draw < 0.8:
            return f"{self._bracketed(inner)}.{self._arguments(self._one(self._methods), depth)}"
        if draw < 0.9:
            return f"not ({inner})"
        return self._call(depth)

    def _bracketed(self, text: str) -> str:
        return f"({text})" if self._random.random() < 0.5 else text

    def _call(self, depth: int) -> str:
        return self._arguments(self._one(self._functions), depth)

    def _arguments(self, signature: Signature, depth: int) -> str:
        """A call with what it must have and some of what it may, mostly of the right kind."""
        parts = []
        for place, parameter in enumerate(signature.parameters):
            if parameter.default is REQUIRED or self._random.random() < 0.15:
                value = self._fitting(parameter.name, depth)
                parts.append(value if place < signature.positional else f"{parameter.name}={value}")
        if self._random.random() < 0.1:
            parts.append(self._value(depth))
        return f"{signature.name}({', '.join(parts)})"

    def _fitting(self, name: str, depth: int) -> str:
        if name in FITTING and self._random.random() < 0.95:
            return self._one(FITTING[name])
        return self._value(depth)

    def _value(self, depth: int) -> str:
        draw = self._random.random()
        if draw < 0.03:
            return self._one(HOSTILE)
        return self._call(depth - 1) if depth > 0 and draw < 0.2 else self._one(ATOMS)

    def _broken(self, text: str) -> str:
        """The text with a piece of it gone, doubled, moved, or with something put in."""
        start = self._random.randrange(len(text) + 1)
        end = min(len(text), start + self._random.randint(0, 6))
        added = self._one(
            [
                "",
                text[start:end] * 2,
                self._one(HOSTILE),
                self._one(ATOMS),
                self._one(OPERATORS),
                chr(self._random.choice((self._random.randrange(128), self._random.randrange(0x110000)))),
                self._one("()[]{}'\"=,."),
            ]
        )
        return text[:start] + added + text[end:]

    def _one(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)


def at_once(do: Callable[[], object]) -> object:
    """What it gives, or the one kind of error that it may raise, which can be printed. Within a second."""
    for _ in range(2):  # a full collection of garbage, of all tests before, may fall into the first
        start = time.thread_time()  # of this thread alone, whatever else the machine does
        found: object
        try:
            found = do()
        except VlqError as error:
            found = error
        if time.thread_time() - start < SECOND:
            break
    else:
        raise AssertionError("it takes too long")
    assert not isinstance(found, VlqError) or str(found).encode()
    return found


@pytest.mark.timeout(900)
def test_no_text_does_anything_but_answer_or_be_refused(cases: dict[str, Case]) -> None:
    corpora = [case.corpus for case in cases.values()]
    maker = Maker(seed=0)
    queries = answered = 0
    for number in range(TEXTS):
        text = maker.text()
        node = at_once(lambda text=text: parse(text))
        if isinstance(node, VlqError):
            continue
        again = parse(str(node))
        assert again.equals(node), text
        queries += 1
        if queries % ASKED == 0:
            corpus = corpora[number % len(corpora)]
            result = at_once(lambda corpus=corpus, node=node: corpus.query(node))
            if isinstance(result, Asked):
                answer = at_once(lambda result=result: (result.rows, result.summary, result.headline, result.notes))
                answered += not isinstance(answer, VlqError)
    # Else it is not the language that is tested, but Python's grammar.
    assert queries > TEXTS / 10
    assert answered > TEXTS / 400
