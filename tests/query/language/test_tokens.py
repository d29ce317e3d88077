"""Which ids a word means, and what is said of words that mean none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

import vlq
from vlq.query.client.corpus import Corpus
from vlq.query.errors import BadArgument, CacheError, QueryError, UnknownName, UnknownToken
from vlq.query.schema import RUN, TOKENIZER, VOCABULARY, digest_of
from vlq.query.store import open_store

from ...synthetic import make_run, parquet

PIECES = ["<s>", "<0x0A>", ":", "▁dog", "▁Dog", "▁DOGS", "dog", "▁cat", "▁rock", "▁rocky", "▁da", "ch", "s", "hund"]
PIECES += ["ear", "▁damp", "▁straße", "▁", "▁d", *"abcdefghijklmnopqrtuvwxyz", "<unk>"]
WITHOUT_TEXT = 2


def save_cache(folder: Path, *, tokenizer: bool = True, **changes: Any) -> Path:
    """A cache with this vocabulary and no images."""
    store = open_store(str(folder), create=True)
    pieces: list[str | None] = [*PIECES, *[None] * WITHOUT_TEXT]
    texts = ["\n" if piece == "<0x0A>" else piece and piece.replace("▁", " ") for piece in pieces]
    table = pa.table(
        {
            "id": pa.array(range(len(pieces)), pa.uint32()),
            "piece": pa.array(pieces, pa.string()),
            "text": pa.array(texts, pa.string()),
            "word_start": [text is not None and text.startswith(" ") and not text.isspace() for text in texts],
            "special": [piece == "<s>" for piece in pieces],
        }
    )
    objects = {VOCABULARY: parquet(table)}
    if tokenizer:
        made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(PIECES)], len(PIECES) - 1))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Metaspace()
        objects[TOKENIZER] = made.to_str().encode()
    checksums = {key: digest_of(data) for key, data in objects.items()}
    for key, data in objects.items():
        store.create(key, data)
    store.create(RUN, make_run(vocabulary_size=len(pieces), checksums=checksums, **changes).to_bytes())
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return vlq.open(str(save_cache(tmp_path_factory.mktemp("cache"))))


def ids(corpus: Corpus, text: str) -> list[str]:
    return [token["piece"] or token["id"] for token in corpus.query(text).tokens]


@pytest.mark.parametrize(
    ("token", "pieces"),
    [
        ("'dog'", ["▁dog", "▁Dog"]),
        ("'DOG'", ["▁dog", "▁Dog"]),
        ("' dog'", ["▁dog", "▁Dog"]),
        ("'▁dog'", ["▁dog"]),
        ("'STRASSE'", ["▁straße"]),
        ("3", ["▁dog"]),
        (str(len(PIECES) + 1), [len(PIECES) + 1]),  # an id without text is its number
        ("['cat', 'dog', '▁dog', 3]", ["▁dog", "▁Dog", "▁cat"]),
        ("matching('^dog')", ["▁dog", "▁Dog", "▁DOGS"]),
        ("matching('OCK')", ["▁rock", "▁rocky"]),
        ("[matching('y$'), 'cat']", ["▁cat", "▁rocky"]),
        ("'dog', pieces=True", ["▁dog", "▁Dog", "dog"]),
        ("'ear', pieces=True", ["ear"]),
        ("matching('^(dog|ear)$'), pieces=True", ["▁dog", "▁Dog", "dog", "ear"]),
        ("prefix('dachshund')", ["▁da"]),
    ],
)
def test_what_words_mean(corpus: Corpus, token: str, pieces: list[Any]) -> None:
    assert ids(corpus, f"first_layer({token})") == pieces


@pytest.mark.parametrize(
    ("token", "more", "noted"),
    [
        ("'dog'", ", at='last'", "dog (6)"),
        ("' Dog '", ", at='last'", "dog (6)"),
        ("['dog', 'cat']", ", at='last'", "dog (6)"),
        ("'dog'", ", at='last', pieces=True", None),
        ("['dog', 6]", ", at='last'", None),
        ("'▁dog'", ", at='last'", None),
        ("matching('^dog$')", ", at='last'", None),
        ("'cat'", ", at='last'", None),
        ("'dog'", "", None),
    ],
)
def test_a_word_that_an_answer_may_begin_with_is_told(
    corpus: Corpus, tmp_path: Path, token: str, more: str, noted: str | None
) -> None:
    closed = corpus.query(f"first_layer({token}{more})").notes
    assert not [note for note in closed if "pieces=True" in note]  # behind "ASSISTANT:"
    said = f"Without a space before it, as an answer may begin here, the word is {noted}: pieces=True counts that too."
    prompts: list[tuple[str, list[str]]] = [("assistant\n", [":"]), ("assistant<s>", [":"]), ("", [":", "<0x0A>"])]
    for number, (end, pieces) in enumerate(prompts):
        run = {"prompt": f"<image>\nWhat?{end}", "prompt_ids": tuple(map(PIECES.index, pieces))}
        corpus = vlq.open(str(save_cache(tmp_path / str(number), **run)))
        notes = [note for note in corpus.query(f"first_layer({token}{more})").notes if "pieces=True" in note]
        assert notes == ([said] if noted else [])


def test_a_prefix_says_what_else_begins_so(corpus: Corpus) -> None:
    (note, *_) = corpus.first_layer(vlq.prefix("dachshund")).notes
    assert note == (
        "prefix('dachshund'): its first of 4 pieces is ▁da (10); 2 words of the vocabulary begin with it."
    )  # itself and '▁damp'
    (note, *_) = corpus.first_layer(vlq.prefix("cat")).notes
    assert note == "prefix('cat'): ▁cat (7) is the whole word."


@pytest.mark.parametrize(
    ("token", "kind", "message", "hint"),
    [
        ("'rokc'", UnknownToken, None, "Did you mean 'rock' or 'rocky'?"),
        (
            "'dachshund'",
            UnknownToken,
            "'dachshund' is not one token of this vocabulary: it is spelled ▁da ch s hund.",
            "Its first piece can be asked for: prefix('dachshund'); 2 words share it.",
        ),
        (
            "'ear'",
            UnknownToken,
            "'ear' begins no word of this vocabulary.",
            "Inside of words there is ear (14): ask by its number, or with pieces=True.",
        ),
        ("'<s>'", UnknownToken, "'<s>' begins no word of this vocabulary.", None),
        ("'▁dgo'", UnknownToken, "There is no piece '▁dgo' in this vocabulary.", "Did you mean 'dog'?"),
        ("dog", UnknownName, "token: dog is not quoted.", None),
        ("('cat', 'dog')", BadArgument, None, "Several are a list in brackets: ['cat', 'dog']"),
        ("99", UnknownToken, "token: there is no token 99. Ids run from 0 to 46.", None),
        ("-1", UnknownToken, "token: there is no token -1. Ids run from 0 to 46.", None),
        ("''", BadArgument, "token: the word is empty.", None),
        ("[]", BadArgument, None, None),
        ("True", BadArgument, None, None),
        ("1.5", BadArgument, None, None),
        ("None", BadArgument, None, None),
        ("first_layer('dog')", BadArgument, None, None),
        ("matching('(')", BadArgument, "This regular expression cannot be read: missing ): (.", None),
        ("matching(3)", BadArgument, "pattern: expected a regular expression. Got 3.", None),
        ("matching(abc)", UnknownName, None, "Write pattern='abc'. In a shell, put the whole query in double quotes."),
        ("matching('qqq')", UnknownToken, "No word of this vocabulary matches 'qqq'.", None),
        ("prefix('')", BadArgument, "A word has 1 to 40 characters.", None),
    ],
)
def test_words_that_mean_none(
    corpus: Corpus, token: str, kind: type[QueryError], message: str | None, hint: str | None
) -> None:
    text = f"first_layer(token={token})"
    with pytest.raises(kind) as caught:
        corpus.query(text)
    assert type(caught.value) is kind
    if message is not None:
        assert caught.value.message == message
    if hint is not None:
        assert hint in (caught.value.hint or "")
    start, end = caught.value.span or (0, 0)
    assert text[start:end] in token
    assert start < end


def test_the_spot_inside_a_list(corpus: Corpus) -> None:
    text = "first_layer(['cat', 'zebra'])"
    with pytest.raises(UnknownToken) as caught:
        corpus.query(text)
    assert caught.value.span == (text.index("'zebra'"), text.index("])"))


def test_without_a_tokenizer(tmp_path: Path) -> None:
    corpus = vlq.open(str(save_cache(tmp_path, tokenizer=False)))
    with pytest.raises(UnknownToken, match="'dachshund' is no word of this vocabulary"):
        corpus.first_layer("dachshund")
    with pytest.raises(CacheError, match="has no tokenizer"):
        corpus.first_layer(vlq.prefix("dachshund"))


def test_a_cache_without_readings(corpus: Corpus) -> None:
    with pytest.raises(CacheError, match="holds no readings yet"):
        _ = corpus.first_layer("dog").rows
