"""What an edit must not touch lightly: numbers, units, frequencies, comparisons, drugs and their routes, negations,
directions (increase or decrease, hyper or hypo, left or right), and their order.

Compared by a keyed digest, never as text.

SCORE puts the digest of a response into its decision; JOIN compares it with the digest of the edited text, so that
depth is decided without any patient text after SCORE. Drug names are recognised by the stems of the WHO's
international non-proprietary names (WHO/EMP/RHT/TSN/2018.1, "The use of stems in the selection of INN") and a few
common drugs without one; this is a heuristic and says so. In doubt an edit is deep: `twice` is not `bid`, nor `0.5`
`.5`; but a blank before a unit, marks around a dose and other words between are form.

>>> tokens("Give 5 mg of amlodipine, do not stop lisinopril.")
('5', 'mg', 'amlodipine', 'not', 'stop', 'lisinopril')
>>> tokens("It should be increased in hyperkalaemia") != tokens("It should be decreased in hypokalaemia")
True
>>> digest("Take 5 mg daily", b"key") == digest("Please take 5mg daily.", b"key")
True
>>> digest("Take 5 mg daily", b"key") == digest("Take 50 mg daily", b"key")
False
"""

import hashlib
import re
from itertools import chain
from typing import Final

from models.memo import Memo
from models.nfkc import nfkc

MAX_KEY: Final = 64
"""Bytes that BLAKE2b takes as a key."""
_MICRO = "\u03bc"
"""What the compatible form makes of the micro sign."""
_NUMBER = r"(?:(?<!\w)[-\u2212])?(?:(?<!\w)\.)?\d+(?:[.,/:\u2044]\d+)*"
"""Also after letters (q6h, D5W, pH7.4). A hyphen or point before it counts where nothing stands before that."""
_COMPARISON = "[<>\u2264\u2265=\u00b1%]"
"""And percent, a unit that is no letter."""
_LETTER = r"[^\W\d_]"
_UNITS = (
    rf"mcg|{_MICRO}g|ug|ng|mg|kg|ml|dl|mmol|mol|meq|iu|units?|hours?|hrs?|days?|weeks?|months?|years?|minutes?|mins?|"
    r"(?<![.'])[glhdu]"
)
_FREQUENCIES = (
    "once|twice|thrice|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    "thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    "(?<=ty-)one|hundred|thousand|"
    "second|third|half|double|every|other|alternate|"
    "hourly|daily|nightly|weekly|monthly|yearly|morning|noon|evening|night|bedtime|"
    r"[btq]\.?i\.?d|q\.?o?\.?d|q\.?h\.?s|o\.?d|b\.?d|t\.?d\.?s|q\.?d\.?s|prn|stat"
)
"""And numbers in words. Alone, `one` is mostly a pronoun, and a dose of it a form of `a`."""
_NEGATION = rf"no|not|nor|never|none|neither|without|held|cannot|{_LETTER}+n't|safe|safely|unsafe"
_ROUTES = (
    r"i\.?v|i\.?m|s\.?c|p\.?o|p\.?r|s\.?l|oral|intravenous|intramuscular|subcutaneous|intrathecal|epidural|"
    "sublingual|rectal|topical|inhaled|nasal"
)
_DIRECTIONS = (
    "up|down|left|right|high|higher|low|lower|above|below|before|after|more|less|minimum|maximum|"
    "positive|negative|normal|abnormal|benign|malignant|absent"
)
_TURNS = (
    rf"(?:increas|decreas|reduc|rais|ceas)(?=(?:es?|ed|ing)(?!{_LETTER}))|hyp(?:er|o)(?={_LETTER})|"
    rf"stop(?=(?:s|ped|ping)?(?!{_LETTER}))|avoid(?=(?:s|ed|ing|ance)?(?!{_LETTER}))|"
    rf"hold(?=(?:s|ing)?(?!{_LETTER}))|withh(?=(?:olds?|olding|eld)(?!{_LETTER}))|"
    rf"discontinu(?=(?:es?|ed|ing|ation)(?!{_LETTER}))|contraindicat(?=(?:es?|ed|ing|ions?)(?!{_LETTER}))"
)
"""Of a word, what gives the direction, or turns all around: however it is inflected."""
_STEMS = (
    "pril|prilat|sartan|olol|statin|cillin|mycin|micin|azole|prazole|tidine|gliptin|gliflozin|glutide|mab|nib|parin|"
    "xaban|gatran|dipine|zepam|zolam|caine|profen|oxacin|cycline|setron|triptan|vir|sone|olone|onide|terol|tropium|"
    "thiazide|semide|lukast|oxetine|ipramine|peridol|apine|barbital|phylline|platin|taxel|rubicin|penem|limus|"
    "glitazone|dronate|pamil|tiazem|azosin|fibrate|triptyline|faxine|opram|peridone|pidem|quine|relin|pressin|curium|"
    "curonium|grel|grelor|coxib|poetin|grastim|bactam|fungin|mustine|oxifene|oxifen|lutamide|steride|afil|entan|vudine"
)
_DRUGS = (
    "insulin|warfarin|heparin|aspirin|metformin|paracetamol|acetaminophen|digoxin|lithium|morphine|oxycodone|fentanyl|"
    "codeine|tramadol|methotrexate|amiodarone|gabapentin|pregabalin|levothyroxine|spironolactone|"
    "adrenaline|noradrenaline|epinephrine|norepinephrine|dopamine|dobutamine|naloxone|methadone|buprenorphine|ketamine|"
    "propofol|hydralazine|nitroglycerin|oxytocin|potassium|sodium|calcium|magnesium|iron|phenytoin|valproate|"
    "carbamazepine|lamotrigine|levetiracetam|sertraline|allopurinol|colchicine|cyclophosphamide|ciclosporin|"
    "nitrofurantoin|isoniazid|rifampicin|metoclopramide|salbutamol|albuterol|tamsulosin|lactulose|"
    "cef[a-z]+|gli[a-z]+ide|vin[a-z]+ine"
)
_ENDS = "|".join(sorted({stem[-2:] for stem in _STEMS.split("|")}))
_LIKELY = rf"(?=[a-z]{{5,}}+(?:(?<={_ENDS})|(?<=s)))"
"""A look at how a word ends spares most words the search for a stem, which is half of the time."""
_SALIENT: Final = re.compile(
    rf"{_NUMBER}|{_COMPARISON}|"
    rf"(?<!{_LETTER})(?:{_TURNS}|"
    rf"(?:{_UNITS}|{_FREQUENCIES}|{_NEGATION}|{_ROUTES}|{_DIRECTIONS}|{_DRUGS}|{_LIKELY}[a-z]{{2,}}(?:{_STEMS})s?)"
    rf"(?!{_LETTER}))"
)
"""Of `plain` text: to ignore case would cost more than twice as much."""


def tokens(text: str) -> tuple[str, ...]:
    """Return the salient tokens of a text as they follow each other, lower-case. None reaches across a blank."""
    return tuple(chain.from_iterable(map(_FOUND.__getitem__, plain(text).split())))


_FOUND: Final = Memo(lambda word: tuple(_SALIENT.findall(word)))


def plain(text: str) -> str:
    """Return a text in lower case, each letter and apostrophe in its most common form."""
    folded = nfkc(text).lower().replace("\u0131", "i")
    return folded.replace("\u2018", "'").replace("\u2019", "'").replace("\u02bc", "'")


def digest(text: str, key: bytes) -> str:
    """Return a keyed BLAKE2b digest (RFC 7693) of the salient tokens, in hexadecimal; `key` is at most `MAX_KEY`."""
    return hashlib.blake2b("\x1f".join(tokens(text)).encode(), key=key, digest_size=16).hexdigest()
