"""Values that an argument does not take, or that the cache has nothing for."""

from __future__ import annotations

from vlq.query.errors import BadArgument, CacheError
from vlq.query.mistakes.table import Example, Mistake

WRONG = "{name}: expected {expected}. Got {got}."

EXPECTED = Mistake(
    BadArgument,
    WRONG,
    "",
    (
        Example("first_layer('dog', rank=⟦0⟧)", "rank: expected a rank from 1 to 20. Got 0."),
        Example(
            "first_layer('dog', min_patches=⟦1.5⟧)", "min_patches: expected a whole number of at least 1. Got 1.5."
        ),
        Example(
            "first_layer('dog', by=⟦'patchs'⟧)",
            "by: expected 'image' or 'patch' or 'corpus'. Got 'patchs'.",
            "Did you mean 'patch'?",
        ),
        Example("first_layer('dog', pieces=⟦true⟧)", "pieces: expected True or False. Got true.", "Did you mean True?"),
        Example(
            "first_layer('dog', layers=⟦(5, 3)⟧)",
            "layers: expected a layer, a window such as (5, 20), or a list such as [8, 16, 24]. Got (5, 3).",
            "Did you mean (3, 5)?",
        ),
        Example(
            "first_layer('dog', layers=⟦'5-8'⟧)",
            "layers: expected a layer, a window such as (5, 20), or a list such as [8, 16, 24]. Got '5-8'.",
            "Did you mean (5, 8)?",
        ),
        Example(
            "first_layer('dog', layers=⟦5 - 8⟧)",
            "layers: expected a layer, a window such as (5, 20), or a list such as [8, 16, 24]. Got 5 - 8.",
            "Did you mean (5, 8)?",
        ),
        Example(
            "first_layer('dog', min_prob=⟦'0.5'⟧)",
            "min_prob: expected a probability above 0 and up to 1. Got '0.5'.",
            "Did you mean 0.5?",
        ),
        Example("locate('dog', layer=⟦(3, 4)⟧)", "layer: expected a layer. Got (3, 4)."),
        Example(
            "first_layer(⟦None⟧)",
            "token: expected a word, a piece such as '▁dog', a token id, a list of these, matching(...) or "
            "prefix(...). Got None.",
        ),
        Example(
            "first_layer('ear', patches=⟦1.0⟧)",
            "patches: expected a patch's number, a list of them, a label of objects, locate(...), or a query with rows "
            "by patch. Got 1.0.",
        ),
        Example("top(image=⟦1.5⟧)", "image: expected an image's name, or its number. Got 1.5."),
        Example("top(image=0, patch=⟦-1⟧)", "patch: expected a number from 0. Got -1."),
        Example("defaults(share=⟦None⟧)", "share: expected a share above 0 and up to 1. Got None."),
        Example("first_layer(matching(⟦3⟧))", "pattern: expected a regular expression. Got 3."),
        Example("images().sample(3, seed=⟦'a'⟧)", "seed: expected a whole number. Got 'a'."),
        Example("images().select([⟦3⟧])", "columns: expected a column, or a list of columns. Got 3."),
        Example("first_layer('dog').mean(⟦[layer]⟧)", "column: expected a column. Got [layer]."),
        Example(
            "first_layer('dog').histogram(logprob, bins=⟦1⟧)",
            "bins: expected a whole number from 2 to 1000. Got 1.",
        ),
        Example("compare('demo', 'demo', ⟦layer⟧)", "query: expected a query, such as first_layer('dog'). Got layer."),
    ),
    near="Did you mean {near}?",
)
PER_CENT = Mistake(
    BadArgument,
    WRONG,
    "As a share, {got} per cent are {share}.",
    (
        Example(
            "first_layer('dog', min_prob=⟦50⟧)",
            "min_prob: expected a probability above 0 and up to 1. Got 50.",
            "As a share, 50 per cent are 0.5.",
        ),
    ),
)
WINDOW = Mistake(
    BadArgument,
    WRONG,
    "A window is (first, last); any other choice is a list in brackets.",
    (
        Example(
            "first_layer('dog', layers=⟦(3, 4, 5)⟧)",
            "layers: expected a layer, a window such as (5, 20), or a list such as [8, 16, 24]. Got (3, 4, 5).",
            "A window is (first, last); any other choice is a list in brackets.",
        ),
    ),
)
LIST = Mistake(
    BadArgument,
    WRONG,
    "Several are a list in brackets: {list}",
    (
        Example(
            "first_layer(⟦('cat', 'dog')⟧)",
            "token: expected a word, a piece such as '▁dog', a token id, a list of these, matching(...) or "
            "prefix(...). Got ('cat', 'dog').",
            "Several are a list in brackets: ['cat', 'dog']",
        ),
        Example(
            "first_layer(⟦'cat' or 'dog'⟧)",
            "token: expected a word, a piece such as '▁dog', a token id, a list of these, matching(...) or "
            "prefix(...). Got 'cat' or 'dog'.",
            "Several are a list in brackets: ['cat', 'dog']",
        ),
        Example(
            "first_layer('ear', patches=⟦(1, 2)⟧)",
            "patches: expected a patch's number, a list of them, a label of objects, locate(...), or a query with rows "
            "by patch. Got (1, 2).",
            "Several are a list in brackets: [1, 2]",
        ),
    ),
)
QUOTED_QUERY = Mistake(
    BadArgument,
    WRONG,
    "It stands without quotes.",
    (
        Example(
            "compare('demo', 'demo', ⟦'images()'⟧)",
            "query: expected a query, such as first_layer('dog'). Got 'images()'.",
            "It stands without quotes.",
        ),
    ),
)

# --- what this cache has nothing for ---------------------------------------------------------------------------

RANK_ABOVE_K = Mistake(
    BadArgument,
    "{name}: this cache holds the {k} best tokens of a reading. Got {got}.",
    "Ask for {name}={k} at most, or cache the images again with `vlq run --k {got}`.",
    (
        Example(
            "first_layer('dog', rank=⟦50⟧)",
            "rank: this cache holds the 20 best tokens of a reading. Got 50.",
            "Ask for rank=20 at most, or cache the images again with `vlq run --k 50`.",
        ),
    ),
)
RANK_UNTRACKED = Mistake(
    BadArgument,
    "rank: this cache holds the {k} best tokens of a reading, and every rank of {tracked}. Got {got}.",
    "Ask for rank={k} at most, or for tracked tokens alone.",
    (
        Example(
            "first_layer('cat', rank=⟦50⟧)",
            "rank: this cache holds the 20 best tokens of a reading, and every rank of ▁dog (286), ▁ear (287). Got 50.",
            "Ask for rank=20 at most, or for tracked tokens alone.",
            cache="tracked",
        ),
    ),
)
NO_LAYER = Mistake(
    BadArgument,
    "{name}: there is no layer {got}. This cache has the layers 0 (the embedding) to {last}.",
    "",
    (
        Example(
            "first_layer('dog', layers=(5, ⟦20⟧))",
            "layers: there is no layer 20. This cache has the layers 0 (the embedding) to 8.",
        ),
    ),
)
NOT_READ = Mistake(
    BadArgument,
    "{name}: {layers} read. This cache has the layers {read}.",
    "Ask for those, or cache the images again with other `vlq run --layers`.",
    (
        Example(
            "first_layer('dog', layers=⟦5⟧)",
            "layers: layer 5 was not read. This cache has the layers 0, 8, 16 to 32.",
            "Ask for those, or cache the images again with other `vlq run --layers`.",
            cache="layers",
        ),
        Example(
            "first_layer('dog', layers=⟦(1, 7)⟧)",
            "layers: none of the layers 1 to 7 was read. This cache has the layers 0, 8, 16 to 32.",
            "Ask for those, or cache the images again with other `vlq run --layers`.",
            cache="layers",
        ),
    ),
)
NO_PATCH = Mistake(
    BadArgument,
    "{name}: there is no patch {got}. {grid} the patches 0 to {last}.",
    "",
    (
        Example(
            "first_layer('ear', patches=[0, ⟦64⟧])",
            "patches: there is no patch 64. This grid of 8 x 8 has the patches 0 to 63.",
        ),
    ),
)
NO_POSITION = Mistake(
    BadArgument,
    "{name}: at='{at}' has the positions 0 to {last}. Got {got}.",
    "",
    (Example("top(image=0, patch=⟦64⟧)", "patch: at='patch' has the positions 0 to 63. Got 64."),),
)
NO_IMAGE = Mistake(
    BadArgument,
    "There is no image {got} with readings.",
    'See: vlq "images()"',
    (
        Example("top(image=⟦'nobody.png'⟧)", "There is no image 'nobody.png' with readings.", 'See: vlq "images()"'),
        Example(
            "top(image=⟦'000-0'⟧)",
            "There is no image '000-0' with readings.",
            "Did you mean '000-0.png'?",
        ),
    ),
    near="Did you mean {near!r}?",
)
SEVERAL_IMAGES = Mistake(
    BadArgument,
    "{count} images are named {got}.",
    "By number: {numbers}",
    (Example("top(image=⟦'one.png'⟧)", "2 images are named 'one.png'.", "By number: 0, 2", "twins"),),
)
NO_SITE = Mistake(
    BadArgument,
    "at: this cache has readings at {known} only. Got '{at}'.",
    "What is read is chosen when the images are cached: vlq run --at patch,prompt --answer 8",
    (
        Example(
            "⟦first_layer('dog')⟧",
            "at: this cache has readings at prompt, last only. Got 'patch'.",
            "What is read is chosen when the images are cached: vlq run --at patch,prompt --answer 8",
            "prompts",
        ),
    ),
)
NO_OBJECTS = Mistake(
    BadArgument,
    "{name}: a label needs a column `objects` of labels and boxes. These images came without.",
    "Patches that read a token are asked for: {name}=locate({got})",
    (
        Example(
            "first_layer('ear', patches=⟦'dog'⟧)",
            "patches: a label needs a column `objects` of labels and boxes. These images came without.",
            "Patches that read a token are asked for: patches=locate('dog')",
            "other",
        ),
    ),
)
NO_LABEL = Mistake(
    BadArgument,
    "{name}: no image has an object labelled {got}.",
    "Patches that read a token are asked for: {name}=locate({got})",
    (
        Example(
            "first_layer('ear', patches=⟦'dgo'⟧)",
            "patches: no image has an object labelled 'dgo'.",
            "Did you mean 'dog'?",
        ),
        Example(
            "first_layer('ear', patches=⟦'unicorn'⟧)",
            "patches: no image has an object labelled 'unicorn'.",
            "Patches that read a token are asked for: patches=locate('unicorn')",
        ),
    ),
    near="Did you mean {near}?",
)
NO_WORDS = Mistake(
    BadArgument,
    "Which words? Images without a column `objects` of labels and boxes do not tell what is in them.",
    "Name some: prominence(['dog', 'rock'])",
    (Example("⟦prominence()⟧", cache="other"),),
)
NO_STUDY = Mistake(
    BadArgument,
    "Nobody has measured {measured}.",
    "Run: {command}{known}",
    (
        Example(
            "⟦effect(ablate=readings('dog'), on='dog')⟧",
            "Nobody has measured what taking readings('dog') away does to 'dog' (mode='mean', buffer=0).",
            "Run: vlq ablate \"readings('dog')\" --target dog --cache demo",
        ),
        Example(
            "⟦effect('dog', ['dog', 'puppy'], mode='zero', buffer=1)⟧ > 2",
            "Nobody has measured what taking 'dog' away does to ['dog', 'puppy'] (mode='zero', buffer=1).",
            "Run: vlq ablate --objects dog --target \"['dog', 'puppy']\" --mode zero --buffer 1 --cache demo",
        ),
        Example(
            "⟦effect(knockout=readings('dog'), on='dog', by='layer', layers=(2, 8))⟧",
            "Nobody has measured what cutting readings('dog') off from attention does to 'dog'.",
            "Run: vlq knockout \"readings('dog')\" --target dog --layers 2:8 --window 1 --cache demo",
        ),
        Example(
            "⟦effect(steer='dog', place='patches', strength=2)⟧",
            "Nobody has measured what adding 'dog' does to 'dog'.",
            "Run: vlq steer dog --at patches --strength 2 --cache demo",
        ),
        Example(
            "⟦effect(patch='other label', by='layer')⟧",
            "Nobody has measured what states of 'other label' do to the source's answer.",
            'Run: vlq patch --source "other label" --cache demo',
        ),
        Example(
            "⟦effect(readings('cat'), 'cat', by='set', kind='region')⟧",
            "Nobody has measured what taking readings('cat') away does to 'cat' (mode='mean', buffer=0).",
            "Run: vlq ablate \"readings('cat')\" --target cat --combinations regions --cache studied\n"
            "There is effect(on='▁cat', knockout='cat', by='layer')\n"
            "There is effect('cat', 'cat', buffer=1)\n"
            "There is effect(readings('cat'), 'cat')",
            cache="studied",
        ),
    ),
)
EMPTY_CACHE = Mistake(
    CacheError,
    "{url} holds no readings yet.",
    "Run the same `vlq run` again: it goes on.",
    (
        Example(
            "first_layer('dog')",
            "empty holds no readings yet.",
            "Run the same `vlq run` again: it goes on.",
            cache="empty",
        ),
    ),
)

TOO_MANY_CELLS = Mistake(
    BadArgument,
    "This lists up to {listed:,} positions where nothing is stored; at most {most:,} can be.",
    "Narrow it with layers= or images=. Numbers and shares of all: .count(), .mean()",
    (
        Example(
            "rank(3) > 20",
            "This lists up to 1,728 positions where nothing is stored; at most 1,000 can be.",
            "Narrow it with layers= or images=. Numbers and shares of all: .count(), .mean()",
            cache="limited",
        ),
    ),
)

OVERFLOW = Mistake(
    BadArgument,
    "A number becomes too large on the way: {reason}",
    "Calculate with smaller numbers, or with fractions: 1000000.0",
    (
        Example(
            "images(image_id * 9223372036854775807 > 1)",
            "A number becomes too large on the way: Overflow in multiplication of INT64 (2 * 9223372036854775807)!",
            "Calculate with smaller numbers, or with fractions: 1000000.0",
        ),
    ),
)

# --- arguments that do not go together -------------------------------------------------------------------------

PATCHES_OF_TEXT = Mistake(
    BadArgument,
    "patches: goes with at='patch', not with at='{at}'.",
    "Text positions are no patches: leave out patches=, or write at='patch'.",
    (
        Example(
            "first_layer('ear', patches=⟦[1, 2]⟧, at='last')",
            "patches: goes with at='patch', not with at='last'.",
            "Text positions are no patches: leave out patches=, or write at='patch'.",
        ),
    ),
)
BY_PATCH_OF_TEXT = Mistake(
    BadArgument,
    "by='patch' goes with at='patch', not with at='{at}'.",
    "Text positions are no patches: leave out by=, or write at='patch'.",
    (
        Example(
            "first_layer('dog', by=⟦'patch'⟧, at='last')",
            "by='patch' goes with at='patch', not with at='last'.",
            "Text positions are no patches: leave out by=, or write at='patch'.",
        ),
    ),
)
MISSING_BY = Mistake(
    BadArgument,
    "missing: goes with by='image'.",
    "Leave out missing=, or by=.",
    (Example("first_layer('dog', by='corpus', missing=⟦'never'⟧)"),),
)
KIND_BY = Mistake(
    BadArgument,
    "kind: goes with by='set'.",
    "Of an image it is always all chosen patches together. Write by='set', or leave out kind=.",
    (Example("effect('dog', 'dog', kind=⟦'random'⟧)"),),
)
ONE_DONE = Mistake(
    BadArgument,
    "effect: one of ablate=, knockout=, steer= and patch= says what was done. Got {said}.",
    "Such as effect(ablate=readings('dog'), on='dog'), or effect(knockout=readings('dog'), on='dog')",
    (
        Example(
            "⟦effect(on='dog')⟧",
            "effect: one of ablate=, knockout=, steer= and patch= says what was done. Got none of these.",
            "Such as effect(ablate=readings('dog'), on='dog'), or effect(knockout=readings('dog'), on='dog')",
        ),
        Example(
            "⟦effect('dog', 'dog', steer='dog')⟧",
            "effect: one of ablate=, knockout=, steer= and patch= says what was done. Got ablate= and steer=.",
            "Such as effect(ablate=readings('dog'), on='dog'), or effect(knockout=readings('dog'), on='dog')",
        ),
    ),
)
NOT_THERE = Mistake(
    BadArgument,
    "{argument} goes with {whose}, not with {what}=.",
    "Leave it out, or ask about another intervention.",
    (
        Example(
            "effect('dog', 'dog', layers=⟦5⟧)",
            "layers goes with knockout= or steer= or patch=, not with ablate=.",
            "Leave it out, or ask about another intervention.",
        ),
        Example(
            "effect('dog', 'dog', by=⟦'layer'⟧)",
            "by='layer' goes with knockout= or steer= or patch=, not with ablate=.",
            "Leave it out, or ask about another intervention.",
        ),
    ),
)
SEVERAL_STEPS = Mistake(
    BadArgument,
    "This was measured in {steps}, each by itself.",
    "Say which, such as {one}; or have a row for each: by='{by}'",
    (
        Example(
            "⟦effect(knockout='cat', on='▁cat')⟧",
            "This was measured in layers 1-2, 2-3, each by itself.",
            "Say which, such as layers=(2, 3); or have a row for each: by='layer'",
            cache="studied",
        ),
    ),
)
TOO_FEW_PATCHES = Mistake(
    BadArgument,
    "min_patches: with {where} has {positions}. Got {got}.",
    "",
    (
        Example(
            "first_layer('dog', min_patches=⟦65⟧)", "min_patches: with at='patch' a layer has 64 positions. Got 65."
        ),
        Example(
            "first_layer('dog', patches=[1, 2], min_patches=⟦3⟧)",
            "min_patches: with these patches= a layer has 2 positions. Got 3.",
        ),
    ),
)
RUN_TOO_LONG = Mistake(
    BadArgument,
    "min_run: {layers} can be looked at. Got {got}.",
    "",
    (Example("first_layer('dog', layers=(3, 5), min_run=⟦4⟧)", "min_run: 3 layers can be looked at. Got 4."),),
)
PATCHES_BY_ROW = Mistake(
    BadArgument,
    "{name}: expected a row for each image and patch. {got} has a row for each {keys}.",
    "Such as first_layer('dog', by='patch') or readings('dog'); or locate('dog').",
    (
        Example(
            "first_layer('ear', patches=⟦first_layer('dog')⟧)",
            "patches: expected a row for each image and patch. first_layer('dog') has a row for each image.",
            "Such as first_layer('dog', by='patch') or readings('dog'); or locate('dog').",
        ),
    ),
)
PATCHES_AGAINST = Mistake(
    BadArgument,
    "{name}: {got} is held against other images.",
    "Leave out its against=.",
    (
        Example(
            "first_layer('ear', patches=⟦readings('dog', against=label == 'beach')⟧)",
            "patches: readings('dog', against=label == 'beach') is held against other images.",
            "Leave out its against=.",
        ),
    ),
)
