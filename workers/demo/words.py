"""The words of the demo: what its images show, what its dialogues say, and what its vocabulary holds besides."""

from __future__ import annotations

CLASSES = (
    "apple", "ball", "bird", "boat", "book", "bus", "butterfly", "car", "cat", "dog", "ear", "elephant", "eye", "fish",
    "flower", "frog", "horse", "house", "mushroom", "nose", "rock", "shoe", "tree", "umbrella",
)  # fmt: skip
"""What an object can be."""

BACKGROUNDS = ("beach", "grass", "night", "sky", "snow")

CONTENT = CLASSES + BACKGROUNDS
"""What a patch can show."""

DIALOGUE = (
    "USER", "ASSISTANT", "What", "Is", "is", "in", "this", "image", "the", "main", "object", "background", "there",
    "a", "an", "and", "yes", "no",
)  # fmt: skip

CAPITALISED = ("Dog", "Cat", "Bird", "Ear", "Rock", "Tree", "House", "The", "A", "Yes", "No", "This", "It")

_UNSEEN = """
puppy kitten wolf fox bear lion tiger cow pig sheep goat chicken duck rabbit mouse snake bee spider whale shark
animal pet fur tail paw whiskers beak wing feather fin leg head face mouth tooth hair hand foot arm finger stone
pebble boulder mountain hill valley river lake sea ocean water wave sand island desert forest wood leaf branch
root plant seed fruit vegetable lemon orange pear peach grape cherry bread cheese cake pizza egg milk truck
train plane bicycle ship road street bridge wheel engine door window wall roof floor garden tower church school
shop market city town village farm table chair bed lamp clock mirror bottle cup glass plate fork knife spoon box
bag key coin ring crown hat coat shirt dress glove sock phone computer camera screen paper letter pen picture
photo painting map flag music song guitar drum piano bell game toy doll kite balloon gift candle fire smoke
light shadow dark sun moon star cloud rain storm wind ice fog summer winter spring autumn morning evening day
year hour week month time world earth space planet red green blue yellow white black brown grey pink purple big
small large little long short tall old young new good bad happy sad hot cold warm cool fast slow soft hard wet
dry clean dirty full empty open closed left right up down near far above below behind front between under over
on at to of for with from by as it he she they we you his her their our my your that these those some any many
few all none one two three four five six seven eight nine ten first second last next not but or if then else
when where why how who which what was were be been being has have had do does did can could will would shall
should may might must run walk jump swim fly sit stand lie sleep eat drink see look watch hear listen say tell
ask answer read write draw make build break find lose give take bring hold carry throw catch push pull cut cook
play work rest love like want need know think feel remember forget begin end stop go come man woman child boy
girl baby friend family mother father brother sister king queen doctor teacher farmer person people group crowd
name word story question reason idea thing part side middle corner edge top bottom line circle square shape
colour pattern size number half pair piece
"""

UNSEEN = tuple(_UNSEEN.split())
"""Words that no image shows and no dialogue uses: the lens can name them, the model never has a reason to."""

PREFIXES = ("da", "re", "un", "st", "con", "pre", "be", "sch", "sp", "br", "cr", "pl", "tr", "gr", "ma", "pa", "th")
"""Pieces that begin a word and need others to end it."""

PIECES = (
    "What", "Is", "ear", "dog", "cat", "fish", "house", "book", "tree", "eye", "car", "ch", "sh", "und", "ing", "er",
    "est", "ed", "ly", "es", "tion", "ness", "ful", "less", "ment", "able", "al", "en", "on", "an", "or", "ar", "in",
    "it", "is", "us", "ow", "ou", "ea", "oo", "ck", "ght", "nd", "nt", "st", "th", "qu", "ph", "man", "day", "light",
)  # fmt: skip
"""Pieces that go on with a word: 'ear' is one of y-ear. Two of them begin a question, after the image's newline."""

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'\"-()/&%+=*#@_<>[]"


def word_starts() -> tuple[str, ...]:
    """Every piece with a space in front, without repetitions, in the order of the vocabulary."""
    return tuple(dict.fromkeys([*DIALOGUE, *CONTENT, *CAPITALISED, *UNSEEN, *PREFIXES]))
