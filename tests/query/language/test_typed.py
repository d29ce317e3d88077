"""Queries that are being typed: what is a mistake already, and what may still become right."""

from __future__ import annotations

from contextlib import suppress

import pytest

from vlq.query.cache.reader import Cache
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import Unfinished, VlqError
from vlq.query.language.typed import check_typed

from ...synthetic import make_cache


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> LocalCorpus:
    folder = tmp_path_factory.mktemp("cache")
    objects = [[{"label": "dog", "box": [0.0, 0.0, 9.0, 9.0], "mask_rle": None}]] * 2
    make_cache(folder, images=2, columns={"label": ["beach", "snow"], "objects": objects})
    return LocalCorpus(Cache.open(str(folder)))


WHOLE = [
    "first_layer(token='dog')",
    "first_layer('dog', rank=2, layers=(1, 2)).where(layer < 3 and label == 'beach').sort(layer).limit(3)",
    "first_layer('dog').where(not (layer < 1 or label in ['beach', 'snow'])).count()",
    "first_layer(['dog', 'cat'], images=label != 'it\\'s (a' and label == 'beach') < first_layer(matching('^.'))",
    'not first_layer("dog") <= last_layer(0) and first_layer(1) < first_layer(0)',
    "readings('dog', patches=locate('cat')).group(layer).count()",
    "first_layer('dog').where('bea' in label and 1 < layer).select(image)",
    "1 <= first_layer('dog') < 3",
    "first_layer('dog', layers=[0, 2]) + 1 < first_layer('cat')",
]


@pytest.mark.parametrize("whole", WHOLE)
def test_no_beginning_of_a_right_query_is_a_mistake(corpus: LocalCorpus, whole: str) -> None:
    """Up to any character: it is right already, or unfinished."""
    assert check_typed(whole, corpus.query).query
    for length in range(1, len(whole)):
        with suppress(Unfinished):
            check_typed(whole[:length], corpus.query)


@pytest.mark.parametrize(
    "begun", ["first_layer(token='do", "first_layer(", "first_layer('ear') <", "fir", "first_layer('dog').wh"]
)
def test_what_is_begun_is_unfinished(corpus: LocalCorpus, begun: str) -> None:
    with pytest.raises(Unfinished) as caught:
        check_typed(begun, corpus.query)
    with pytest.raises(VlqError) as strictly:
        corpus.query(begun)
    told, expected = caught.value, strictly.value
    assert (told.message, told.hint, told.span) == (expected.message, expected.hint, expected.span)


@pytest.mark.parametrize(
    "begun",
    [
        "⟦first_layr⟧(token='do",
        "⟦first_layr⟧(",
        "first_layer(⟦'dgo'⟧",
        "first_layer(⟦'dgo'⟧, rank=",
        "first_layer(⟦'dgo'⟧, ra",
        "first_layer(⟦'dgo'⟧) <",
        "⟦first_layr⟧('ear') < fi",
        "⟦first_layr⟧('ear').whe",
        "first_layer('dog', ⟦ranc=2⟧, ",
        "first_layer('dog', ⟦ranc=2⟧, images=label == 'be",
        "first_layer(⟦dog⟧, ra",
        "first_layer(token=⟦‘⟧do",
        "first_layer('dog').where(⟦layr⟧ < 5 and la",
        "first_layer('dog').where(⟦layr⟧ < 5 and (la",
        "first_layer('dog').where(layer < 5 ⟦&&⟧ la",
        "first_layer('dog')⟦)⟧",
        "first_layer('dog') ⟦=⟧ 5",
        "first_layer(⟦'dgo'⟧)",
        "first_layer(['dog', ⟦'dgo'⟧, 'ca",
        "first_layer('it (is', ⟦ranc=2⟧, min_",
    ],
)
def test_a_mistake_before_the_end_is_told_at_once(corpus: LocalCorpus, begun: str) -> None:
    text = begun.replace("⟦", "").replace("⟧", "")
    with pytest.raises(VlqError) as caught:
        check_typed(text, corpus.query)
    assert not isinstance(caught.value, Unfinished)
    assert caught.value.span == (begun.index("⟦"), begun.index("⟧") - 1)


def test_what_is_right_is_given(corpus: LocalCorpus) -> None:
    assert check_typed("first_layer('dog')", corpus.query).query == "first_layer('dog')"
