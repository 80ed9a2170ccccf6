"""The vocabulary of tiny models: common English words, word endings and letter pairs.

It owns the list from which `tiny_weights` builds a tokenizer, and knows nothing of files or weights. The
words come first in rough order of use, because a tiny model draws earlier words more often. Letter
pairs and endings exist so that a word that is missing here still costs about one token for each two
letters; every other character falls back to its UTF-8 bytes.
"""

from __future__ import annotations

from string import ascii_lowercase

__all__ = ["PIECES", "WORDS"]

_WORD_TEXT = """
    the of and to in a is that for it as was with be by on not he his but at are this have from or had an
    they which one you were all her she there would their we him been has when who will no more if out so up
    said what its about than into them can only other time new some could these two may first then do any
    like my now over such our man me even most made after also did many off before must well back through
    years much where your way down should because long each just those people too how little good world make
    very year still see own work men day get here old between both life being under three never know same
    last another while us might great go come since against right came take used himself few house use place
    during without again home around small however found part school thought went say general once upon
    every war does got united left number course until always away something fact water public put thing
    less hand far head end look called system think set asked give almost young night enough better took yet
    side eyes children city large question several become among state knew money late four others want going
    group need let point given kind next early five often important company power line rather order social
    open business whole case best program local possible seen high problem name area result change word
    church turned door done today interest matter half moment near themselves service able level form feel
    idea mind real behind free book full keep help reason answer show write read light story body mother
    father face family member hold community office history national government country percent second
    market price cost value pay buy sell product customer search chat support account card message email
    phone address date month week hour minute table list item file text letter sentence page report summary
    note document passage paragraph title topic section example detail step plan task test check review
    score judge rate rank choose choice pick select decide decision option class label intent query rewrite
    context source data model token prompt user assistant agent tool code function error bug fix build run
    start stop wait send receive request response server client worker cluster machine memory speed fast
    slow queue load store cache key type size length limit language english translate explain describe
    compare find return following below above true false yes none json string input output dask python graph
    node edge workflow replica engine deadline schedule parallel distributed scale future stream car road
    street town river sea land tree garden food bread milk coffee tea dinner morning evening summer winter
    spring sun moon star sky rain wind snow fire earth air stone wood iron gold silver red blue green black
    white brown dark bright warm cold hot soft hard heavy quick quiet loud happy sad angry afraid strong
    weak rich poor clean dirty empty short tall wide deep round flat sharp sweet friend brother sister son
    daughter boy girl woman women child baby king queen doctor teacher student team game play win lose music
    song dance art picture film paper pen desk chair window wall floor room kitchen bed clothes shirt shoe
    hat bag box cup glass knife dog cat horse bird fish cow sheep walk talk speak tell hear listen watch sit
    stand sleep eat drink cook wash cut break carry pull push throw catch fall rise grow die live love hate
    hope wish believe remember forget learn teach understand mean try seem appear happen begin finish
    continue follow lead move leave arrive meet join visit travel fly drive ride swim climb jump count
    measure weigh add plus minus equal zero six seven eight nine ten hundred thousand million per cent total
    average across along already although anything everything nothing someone everyone nobody perhaps maybe
    usually sometimes especially exactly quickly simply really actually certainly probably clearly finally
    therefore instead despite toward within beyond except whether why whose whom itself yourself myself else
    either neither nor please thank thanks hello welcome sorry dear sir information education experience
    development technology science research study theory method process practice quality quantity material
    energy force pressure temperature weather climate nature animal plant human person health medicine
    hospital disease pain blood heart brain skin bone hair eye ear nose mouth tooth neck arm finger leg foot
    law court police crime prison peace army soldier weapon battle enemy president leader party vote
    election policy tax bank loan debt profit trade industry factory farm crop ship train plane station
    airport bridge hotel restaurant shop delivery refund payment invoice discount offer contract agreement
    meeting event project manager department employee employer job career skill training lesson exam degree
    university college library
    """

WORDS: tuple[str, ...] = tuple(dict.fromkeys(_WORD_TEXT.split()))
"""Lower-case words, the most used first."""

_ENDING_TEXT = """
    s es ed ing er ers est ly tion tions ation sion ment ments ness able ible ful less ous ive ity al ally ic ical ism
    ist ize ized izing ise ised ance ence ant ent ary ory ure age ship ward wise 's 't 're 've 'll 'd n't un re pre
    dis mis non over under inter trans con com pro per sub super
    """

PIECES: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *_ENDING_TEXT.split(),
            *(first + second for first in ascii_lowercase for second in ascii_lowercase),
            *(" " + letter for letter in ascii_lowercase),
            *(" " + first + second for first in ascii_lowercase for second in ascii_lowercase),
            *(" " * spaces for spaces in (2, 4, 8)),
            *(str(number) for number in range(10, 100)),
            *("\n\n", "...", "](", "```", "==", '":', '",', ' "', " (", "--"),
        ]
    )
)
"""Pieces that shorten prompts and are hardly ever generated."""
