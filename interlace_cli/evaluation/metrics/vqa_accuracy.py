"""VQA accuracy against the answers of several people (Antol et al. 2015, section 4).

An answer is fully right if three people gave it: min(1, count / 3). Each person is left out in turn and the results are
averaged. With ten people, the possible values are 0, 0.3, 0.6, 0.9 and 1, for 0, 1, 2, 3 and at least 4 people.

Answers are normalized first, by the rules of the EvalAI script that scores TextVQA and VQAv2: lower case, no
punctuation except in numbers, number words as digits, no articles, contractions with their apostrophes.

Source: `EvalAIAnswerProcessor` and TextVQA's score, as lmms-eval 0.7.3 carries them; the same but for thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points

ENOUGH = 3
"""So many people who gave an answer make it fully right."""
NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905


def normalize_answer(text: str) -> str:
    """The normalized answer. Example: "The two dogs, isnt it?" -> "2 dogs isn't it"."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def compute_vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """In 0 ... 1: the mean over people of min(1, others who gave this answer / 3). `answers` must not be empty."""
    said, given = normalize_answer(prediction), [normalize_answer(answer) for answer in answers]
    agree = given.count(said)
    own = [min(1.0, (agree - (answer == said)) / ENOUGH) for answer in given]
    return sum(own) / len(own)


def score_vqa_accuracy(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """VQA accuracy of each answer, in 0 ... 1."""
    pairs = zip(answers, samples, strict=True)
    return Points([compute_vqa_accuracy(answer, sample.references) for answer, sample in pairs])


def _strip_punctuation(text: str) -> str:
    """Removes a sign if it stands beside a space anywhere in the text, else makes it a space. Keeps "." in 2.5."""
    result = text
    for sign in PUNCTUATION:
        is_loose = f"{sign} " in text or f" {sign}" in text
        result = result.replace(sign, "" if is_loose else " ")
    return re.sub(r"\.(?!\d)", "", result)


def _drop_apostrophes(word: str) -> set[str]:
    """All ways to leave out one or more apostrophes. Example: "y'all'd" -> {"yall'd", "y'alld", "yalld"}."""
    positions = [index for index, sign in enumerate(word) if sign == "'"]
    chosen = [set(some) for count in range(1, len(positions) + 1) for some in combinations(positions, count)]
    return {"".join(sign for index, sign in enumerate(word) if index not in gone) for gone in chosen}


# "dont" -> "don't", for every way to forget an apostrophe.
_CONTRACTIONS = {short: word for word in CONTRACTED for short in _drop_apostrophes(word)}
