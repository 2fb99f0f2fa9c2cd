"""Multiple choice: 1 if the reply names the letter or the text of the right choice.

Source: MMMU's `parse_multi_choice_response` (Yue et al. 2024), as lmms-eval 0.7.3 carries it: letters in brackets, then
letters alone, then the texts of choices; of several the last one. Where it finds a choice, so does this one, and the
same, but for what its substring tests get wrong. Here

- nothing is guessed: a reply that names no choice is wrong (MMMU's draws a letter at random);
- a letter is a word: not the `A` of `CPU A` inside `NASA is`, nor the article of "A car moves";
- an answer that says that it is one ("the answer is B", `\\boxed{B}`, "B is correct", `<answer>B</answer>`) goes before
  letters that stand anywhere, and so does a letter that the reply begins with;
- letters and texts that are ruled out do not count ("not A", "(A) is wrong"), nor does a list of the choices, but
  for the one that it calls right ("A: red - no. B: blue - yes.");
- bold letters, letters of other widths, and small ones where nothing else can be meant are read;
- the text of a choice is looked for as whole words, and also in short replies.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from interlace_cli.domain.dataset import Sample
from interlace_cli.evaluation.aggregation import Points
from interlace_cli.evaluation.metrics.exact_match import normalize_answer
from interlace_cli.evaluation.thoughts import strip_thoughts

_SHORT = 5
"""Words of a reply up to which MMMU's parser looks for letters alone."""
# What may stand around a letter that is a word of its own, also inside of text without spaces between words.
_BEFORE, _AFTER = r"(?<![A-Za-z0-9_À-ɏ])(?<![A-Za-z]['’.-])", r"(?![A-Za-z0-9_À-ɏ+])(?!['’-][A-Za-z0-9])"
_OPEN, _CLOSE = r"[(\[{\"'“‘<]*", r"[)\]}\"'”’>]*"
# Words that stand behind a letter and never behind an article: the last, `\w+s`, are verbs.
_NO_NOUN = (
    r"is|are|was|were|isn|and|or|but|nor|because|since|as|for|so|then|if|when|in|on|at|of|to|from|with|by|over|than|rather|not|would|"
    r"could|should|must|can|may|might|will|instead|unlike|too|also|\w*[a-hj-rtv-z]s"
)
_RIGHT = r"(?:the\s+|definitely\s+|clearly\s+|probably\s+)*(?:most\s+)?(?:correct|right|best|true|answer|accurate)"
_JUDGED = re.compile(
    rf"(?<!\.){_CLOSE}[^\w\n.]{{0,4}}(?:(?:is|yes)\W+)?(?:yes\b|{_RIGHT}(?!\s+\w+\s*:)\b|[✓✔✅☑])", re.IGNORECASE
)
"""What follows a choice in a list and calls it right, in the same sentence."""

_WRONG = r"(?:is|are|was|isn['’]?t)?\s*(?::|-)?\s*(?:clearly\s+|also\s+)?(?:not|wrong|incorrect|false|no\b)"
_VERB = r"(?:is|was|are|would\s+be|should\s+be|must\s+be|has\s+to\s+be|be|是|为|:|=|-+>?|→)"
_SAYS = (
    r"(?:\banswers?|\b(?:choose|pick|select|go(?:ing)?\s+with|think|believe|say|guess)(?:\s+that)?|答案|选择|选"
    rf"|\b(?:choices?|options?|letter)\s*(?={_VERB})|\b(?:it|this)(?=\s*(?:['’]s|{_VERB})\s))[\"'”]?"
    r"(?:\s+(?:to\s+[^.\n]{1,60}?|here|it))?\s*"
    rf"(?:['’]s|{_VERB})*\s*(?:{_VERB}\s*)?"
    r"(?:\w+ly\s+|indeed\s+)?(?:the\s+)?(?:option|choice|letter)?\s*[:#]?\s*"
)
_MARKUP = re.compile(r"\\(?:text|mathbf|mathrm|textbf|textit|mathit|bf|rm)\s*\{([^{}]*)\}")
_MARKED = (re.compile(r"\\boxed\s*\{([^{}]*)\}"), re.compile(r"<answer>(.*?)(?:</answer>|$)", re.S | re.I))


def find_choice(text: str, choices: Sequence[str]) -> int | None:
    """The 0-based index of the choice that the reply `text` names; None if it names no choice.

    Thoughts are left out (`strip_thoughts`). Example: with the choices ["cat", "dog"], "B", "(b)", "The answer is B.",
    "**B**" and "a dog" all give 1.
    """
    letters = [chr(65 + index) for index in range(min(len(choices), 26))]
    if not letters:
        return None
    said = _clean(strip_thoughts(text))
    for pattern in _MARKED:
        marked = [_find(inner, letters, choices) for inner in pattern.findall(said)]
        found = [index for index in marked if index is not None]
        if found:
            return found[-1]
    return _find(said, letters, choices)


def check_choices(sample: Sample) -> str | None:
    """Why no answer to the sample could be right; None if one could."""
    if not sample.choices:
        return "there are no choices"
    named = any(find_choice(text, sample.choices) is not None for text in sample.references)
    return None if named else f"the right answer {sample.references[0]!r} is none of the choices"


def score_multiple_choice(answers: Sequence[str], samples: Sequence[Sample]) -> Points:
    """0 or 1 for each answer. The right choice is the one that the sample's own answer names."""
    points = []
    for answer, sample in zip(answers, samples, strict=True):
        right = {find_choice(text, sample.choices) for text in sample.references} - {None}
        points.append(float(find_choice(answer, sample.choices) in right))
    return Points(points)


def _clean(text: str) -> str:
    """The text in plain letters: without emphasis, dollar signs and LaTeX around them, all letters of one width."""
    text = _MARKUP.sub(r"\1", unicodedata.normalize("NFKC", text))
    return re.sub(r"\*+|`+|\$|\\[()\[\]]|(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)", " ", text).strip()


def _find(said: str, letters: Sequence[str], choices: Sequence[str]) -> int | None:
    """The choice that a reply names by its letter, else by its text."""
    one = f"[{letters[0]}-{letters[-1]}]"
    alone = re.fullmatch(rf"{_OPEN}({one})[\s.,:;!?)\]}}\"'”’>】。-]*", said, re.IGNORECASE)
    if alone:
        return letters.index(alone[1].upper())
    plain = _normalize(said)
    labelled = rf"(?:{_OPEN}([{letters[0].lower()}-{letters[-1].lower()}])[).:\]]*\s*)?"
    forms = [re.fullmatch(labelled + re.escape(_normalize(choice)), plain) for choice in choices]
    alike = [i for i, form in enumerate(forms) if form and form[1] in (None, letters[i % 26].lower())]
    if len(alike) == 1:
        return alike[0]
    listed = _find_listed(said, letters, choices)
    rest = _hide_texts(_drop(said, list(listed.values())), choices, one)
    finders = (_find_called_right, _find_bracketed, _find_first, _find_alone, _find_small)
    declared = _find_declared(rest, one)
    judged = [index for index, (_, end) in listed.items() if _JUDGED.match(said, end)]
    if declared is None and len(judged) == 1:
        return judged[0]
    found = declared or next((letter for finder in finders if (letter := finder(rest, one)) is not None), None)
    return letters.index(found) if found is not None else _find_text(rest, choices)


def _find_declared(said: str, one: str) -> str | None:
    """The letter that the reply says to be the answer; the last of several."""
    more = rf"\s*(?:,|/|&|or\s|and\s)?\s*{_OPEN}{one}{_AFTER}"
    found = re.finditer(rf"(?i:{_SAYS}){_OPEN}({one}){_AFTER}{_CLOSE}(?!\s*{_WRONG}|{more})", said)
    return _last((match.start(1), match[1]) for match in found if not _is_article(said, match.end(1)))


def _find_called_right(said: str, one: str) -> str | None:
    """The letter that the reply calls right; the last of several."""
    found = re.finditer(rf"{_BEFORE}({one}){_CLOSE}\s+(?:is|was)\s+(?i:{_RIGHT})\b", said)
    return _last((match.start(1), match[1]) for match in found)


def _find_bracketed(said: str, one: str) -> str | None:
    """The letter in brackets; the last of several that is not ruled out."""
    found = list(re.finditer(rf"\(\s*({one})\s*\)|\[({one})\]", said))
    return _last((m.start(), m[m.lastindex or 0]) for m in _keep_possible(said, found))


def _find_first(said: str, one: str) -> str | None:
    """The letter that the reply begins with, as the label of its choice or on a line of its own."""
    found = re.match(rf"({one})(?:[.:,)](?=\s)(?!\s+(?:(?:and|or)\s+)?{one}\b)|\s*\n)", said)
    return found[1] if found and _keep_possible(said, [found]) else None


def _find_alone(said: str, one: str) -> str | None:
    """The letter that is a word; the last of several that is not ruled out."""
    found = re.finditer(rf"{_BEFORE}({one}){_AFTER}", said)
    words = [match for match in found if not _is_article(said, match.end())]
    return _last((match.start(), match[1]) for match in _keep_possible(said, words))


def _find_small(said: str, one: str) -> str | None:
    """The small letter in brackets, at the beginning as a label, or as the whole of an answer; the last of several."""
    at_end = r"(?=\W*$|[.)])"
    named = rf"\b(?:answer|option|choice)\s*(?:is|:)*\s*{_OPEN}({one}){at_end}"
    found = re.finditer(rf"\(({one})\)|^({one})[.:)]\s|{named}", said, re.IGNORECASE)
    return _last((m.start(), m[m.lastindex or 0].upper()) for m in _keep_possible(said, found))


def _find_text(said: str, choices: Sequence[str]) -> int | None:
    """The choice whose text stands in the reply. Of several it is the last, in a short reply none."""
    lower = said.lower()
    spans = []
    for index, choice in enumerate(choices):
        own = _normalize(choice)
        if own:
            pattern = r"\s+".join(map(re.escape, own.split()))
            found = re.finditer(rf"(?<!\w)(?<!\d[.,])(?<!-){pattern}(?!\w)(?![.,]\d)", lower)
            spans += [(match.start(), match.end(), index) for match in found if not _is_ruled_out(lower, match)]
    # A choice may be part of another, as "car" of "red car".
    outer = [a for a in spans if not any(b[0] <= a[0] and a[1] <= b[1] and b[:2] != a[:2] for b in spans)]
    named = {index for _, _, index in outer}
    if len(named) > 1 and len(said.split()) <= _SHORT:
        return None
    return max(outer)[2] if outer else None


def _find_listed(said: str, letters: Sequence[str], choices: Sequence[str]) -> dict[int, tuple[int, int]]:
    """Choice -> where it stands with its letter, if the reply so repeats more than one of them."""
    spans = {}
    for index, (letter, choice) in enumerate(zip(letters, choices, strict=False)):
        own = r"\s+".join(map(re.escape, _clean(choice).split()))
        found = re.search(rf"{_BEFORE}\(?{letter}[.):]\s*{own}(?!\w)[.,;]?", said, re.IGNORECASE) if own else None
        if found:
            spans[index] = found.span()
    return spans if len(spans) > 1 else {}


def _drop(said: str, spans: Iterable[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        said = f"{said[:start]} {said[end:]}"
    return said.strip()


def _hide_texts(said: str, choices: Sequence[str], one: str) -> str:
    """The reply with the texts of choices that hold a letter, as "vitamin A" does, in small letters."""
    for choice in choices:
        own = _clean(choice)
        if len(own) > 1 and re.search(rf"{_BEFORE}{one}{_AFTER}", own):
            said = re.sub(rf"(?<!\w){re.escape(own)}(?!\w)", lambda match: match[0].lower(), said)
    return said


def _keep_possible(said: str, found: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    return [match for match in found if not _is_ruled_out(said, match)]


def _is_ruled_out(said: str, match: re.Match[str]) -> bool:
    """Whether the reply says of it that it is not the answer."""
    before = re.search(
        r"(?:not|n['’]t|\bneither|\bnor|\bexcept|\brather\s+than|\binstead\s+of|\bunlike)\s+(?:be\s+)?(?:an?\s+|the\s+)?"
        r"(?:option\s+|choice\s+)?[(\"'“‘]*$",
        said[max(match.start() - 40, 0) : match.start()],
        re.IGNORECASE,
    )
    after = re.match(rf"[)\]\"'”’.:]*\s*{_WRONG}\b", said[match.end() :], re.IGNORECASE)
    return before is not None or after is not None


def _is_article(said: str, end: int) -> bool:
    """Whether the letter that ends at `end` is the article "A" or the pronoun "I"."""
    letter, rest = said[end - 1], said[end:]
    if letter == "I":
        return re.match(r"\s+[a-z]", rest) is not None and re.match(r"\s+(?:is|because)\b", rest) is None
    return letter == "A" and re.match(rf"\s+(?!(?:{_NO_NOUN})\b)[a-z]", rest) is not None


def _last(found: Iterable[tuple[int, str]]) -> str | None:
    """The letter at the highest position."""
    last = max(found, default=None)
    return None if last is None else last[1]


def _normalize(text: str) -> str:
    return normalize_answer(_clean(text))
