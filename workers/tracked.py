"""Which tokens a run tracks: words of its vocabulary, as queries take them."""

from __future__ import annotations

from collections.abc import Sequence

from vlq.query.language.tokens import Token, Vocabulary, tokens_of
from vlq.workers.scratch import scratch


def tracked_tokens(words: Sequence[str], vocabulary: bytes, tokenizer: bytes | None) -> tuple[Token, ...]:
    """The tokens that words mean, by ascending id. Raises UnknownToken with the nearest words, BadArgument.

    `vocabulary` is its Parquet table, `tokenizer` a tokenizer.json.
    """
    if not words:
        return ()
    import duckdb

    with scratch() as folder, duckdb.connect() as connection:
        (folder / "vocabulary.parquet").write_bytes(vocabulary)
        if tokenizer is not None:
            (folder / "tokenizer.json").write_bytes(tokenizer)
        path = None if tokenizer is None else str(folder / "tokenizer.json")
        found = Vocabulary(connection.cursor, str(folder / "vocabulary.parquet"), path)
        return tokens_of(words, "--track", found)
