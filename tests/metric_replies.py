"""Everyday replies to score, and what a person says of them: the inputs of the differential tests of the metrics.

`published_metrics.py` writes what the published functions make of them into `golden/published_metrics.json`.
"""

from __future__ import annotations

import random
from itertools import product
from typing import Any

CHOICES = (
    ("red car", "blue car", "a bus", "none of the above"),
    ("12", "7.5", "20", "2.5 m"),
    ("Photosynthesis", "Respiration", "Digestion", "Osmosis"),
)

NAMED = """
{L}|{L}.|({L})|{L}:|{L}!|{L}?|'{L}'| {L} |{L},|{L}. {T}|({L}) {T}|{L} {T}
{L} - {T}
Option {L}|Option {L} is the correct one|Option {L}.|option ({L})|Choice {L}|The correct option is {L}
The answer is {L}|The answer is {L}.|The answer is ({L})|The answer is ({L}).|The answer is: {L}|Answer: {L}
answer: {L}
Answer is {L}|ANSWER: {L}|Answer:\\n{L}|The best answer is {L}.|The correct answer is {L}.
The correct answer is option {L}.
The correct choice is {L}|So the answer is {L}|Therefore, the answer is ({L}) {T}.|Final answer: {L}|My answer is {L}
I think {L} is right|{L} is correct|{L} is the answer|It must be {L}!|It is {L}|It's {L}.|I would say {L}
I believe it is {L}.
I would pick {L} - a safe choice.|I choose {L}|I'd go with {L}|Let me think. {L}|Looking at the picture, {L}
In the picture we see it clearly, so it is ({L}).|Based on the image, the answer is {L}. {T}
The picture shows {T}, so I choose {L}|I am not sure, but {L}|Definitely {L}|{L} of course
Clearly, {L} matches the picture
({O}) is wrong, ({L}) is right|Not ({O}), but ({L})|{O} or {L}? I say {L}
Both {O} and {L} look right, but {L} is better
{LIST}\\nThe answer is {L}|{LIST}\\nAnswer: {L}|{LIST} So {L}.|{PAREN} The answer is ({L})
Either {O} or {L}|The answer is {O} or {L}|{O}, {L}|{O} and {L}|First I looked at {O} and then at {L}
I considered {O} first. The answer is {L}
The picture that we are given shows clearly {T} here|What I can see in this image is certainly {T}.
"""
"""Replies in which MMMU's parser finds what a person finds. {L}: the right letter, {T}: its text, {O}: another letter;
{LIST}, {PAREN}: all choices."""

OTHERS = {
    # MMMU's parser takes the first kind of letter that stands anywhere: brackets, then `X `, then `X.`
    "an answer that is declared goes before other letters": """
The answer is {L}. Note that {O} is a common distractor.|Answer: {L}. But {O} is close to it as well
{L} is correct, {O} is not
The answer is {L}, not {O}|The answer must be {L}, since {O} differs
The answer is {L} because it fits better than {O} does
{L} is correct because {O} shows less
The answer is {L} (and not ({O}))|I choose {L} over {O} here""",
    "a letter at the beginning is the answer": """
{L}, because {O} is another thing|It's {L}, because {O} is another thing|I think it is {L} as {O} does not fit
{L}. The picture is unlike {O} in many ways|{L}\\n\\nIt is close to {O} but fits better
{L}: it fits, which {O} does not""",
    "what is ruled out does not count": """
({L}) is right, ({O}) is wrong|The answer cannot be {O}; {L} fits|{O} is wrong. {L} fits|{L} instead of {O} as well
It is {L}, not {O} here|{L} and certainly not {O} at all""",
    "emphasis and LaTeX around a letter are no letters": """
**{L}**|Answer: **{L}**|**{L}.** {T}|The answer is **{L}**|__{L}__|`{L}`|*{L}*|\\\\boxed{{{L}}}|$\\\\boxed{{{L}}}$
\\\\(\\\\boxed{{{L}}}\\\\)
\\\\boxed{{\\\\text{{{L}}}}}|Therefore $\\\\boxed{{\\\\text{{{L}}}}}$.|**Answer: {L}**|### Answer\\n**{L}**
<answer>{L}</answer>|<answer>({L}) {T}</answer>|{{"answer": "{L}"}}""",
    "thoughts are no answer": """
<think>It may be {O} or {O} </think>{L}|<think>\\nFirst {O} then ({O}).\\n</think>\\n\\nThe answer is {L}
it is ({O}) maybe</think> {L}""",
    "small letters, where nothing else is meant": """
{l}|({l})|({l}) {T}|{l}) {T}|({l}) is right|option {l}|{l}.|{l})|answer: {l}|The answer is {l}.""",
    "texts are found in short replies": "{T}|{T}.|It is {T}|it's {T}!|{T}, I think",
    "other signs beside a letter": """{L})|[{L}]|"{L}"|{L}) {T}|{L}: {T}|{L}, {T}""",
    "letters of another width, and between letters of another script": "答案是{L}|选{L}|{W}|（{W}）",
    "a list of the choices names none": "{LIST}|{PAREN}",
}
"""Replies of which MMMU's parser makes something else, at least for some letters, and why."""

UNNAMED = """
|I don't know|I do not know.|xyz|None|Unknown|?|...|The picture is too dark to tell|I cannot see it|E
Sorry, I can't help
A picture|What a view|Nothing|<think>It may be A|<think>\\nA or B. Let me look at (C) again|NASA did it
It is a PANDA I see
Apples and oranges are here to see|42|Neither|A question that cannot be answered from this|A car that I see
"""
"""Replies that name no choice of the first set. ("A car" is no choice of it alone.)"""


def build_choices() -> list[dict[str, Any]]:
    """`reply`, `choices`, `right` (an index or None) and `why` MMMU's parser may differ ("" where it may not)."""
    found, rng = [], random.Random(0)
    groups = {"": NAMED, **OTHERS}
    for (why, text), choices in product(groups.items(), CHOICES):
        for pattern in _split(text):
            index = rng.randrange(len(choices))
            other = (index + rng.randrange(1, len(choices))) % len(choices)
            listed = why == "a list of the choices names none"
            fields = {
                "L": "ABCD"[index],
                "l": "abcd"[index],
                "W": "ＡＢＣＤ"[index],
                "O": "ABCD"[other],
                "T": choices[index],
                "LIST": "\n".join(f"{'ABCD'[i]}. {choice}" for i, choice in enumerate(choices)),
                "PAREN": " ".join(f"({'ABCD'[i]}) {choice}" for i, choice in enumerate(choices)),
            }
            right = None if listed else index
            found.append({"reply": pattern.format(**fields), "choices": choices, "right": right, "why": why})
    for reply in _split(UNNAMED):
        found.append(
            {
                "reply": reply,
                "choices": CHOICES[0],
                "right": None,
                "why": "what is no letter",
            }
        )
    return found


def _split(text: str) -> list[str]:
    parts = [part for line in text.strip("\n").split("\n") for part in line.split("|")]
    return [part.replace("\\n", "\n").replace("\\\\", "\\") for part in parts]


ANSWERS = {
    # The right answer -> another that is near it, and one that is not.
    "red": ("rid", "blue"),
    "Red Circle": ("red cirkle", "a square"),
    "12": ("12.5", "13"),
    "12.5": ("12.1", "14"),
    "45%": ("46%", "55%"),
    "0.5": ("0.49", "0.6"),
    "1,000": ("1000", "2,000"),
    "-3": ("-3.1", "3"),
    "0": ("0.0", "1"),
    "2019": ("2018", "1019"),
    "yes": ("yep", "no"),
    "New York": ("New Yrk", "Boston"),
    "two dogs": ("2 dogs", "two cats"),
    "the cat's": ("cats", "dog"),
    "nokia 3310": ("Nokia 3311", "samsung"),
}
PATTERNS = {
    "{a}": "",
    "{A}": "",
    " {a} ": "spaces at the ends",
    "{a}\n": "spaces at the ends",
    "{near}": "",
    "{far}": "",
    "": "",
    "{a} {far}": "",
    "a {a}": "",
    "The answer is {a}": "",
    "{a}, I think": "",
    "{a}!": "",
    "({a})": "",
    "{a} {a}": "",
    "**{a}**": "",
    "{a}?": "",
    "{a}.": "a full stop at the end",
    "{a} .": "a full stop at the end",
    "{a}...": "a full stop at the end",
    "{a0}  {a1}": "spaces inside",
    "{n0}   {n1}": "spaces inside",
    "<think>It is {far}, or not.</think>{a}": "thoughts",
    "It is {far}, or not.</think>\n\n{a}": "thoughts",
    "<think>Is it {far}": "thoughts",
}
"""Reply -> what may be read otherwise than by a published function, and is then right or wrong of itself."""


def build_answers() -> list[dict[str, Any]]:
    """`reply`, the right `answer`, what ten people said (`answers`), and `why` a verdict may differ."""
    found, rng = [], random.Random(1)
    for (answer, (near, far)), (pattern, why) in product(ANSWERS.items(), PATTERNS.items()):
        parts = {"near": near, "far": far, "a": answer, "A": answer.upper()}
        if why == "spaces inside" and not (" " in answer and " " in near):
            continue
        parts |= {
            f"{name}{i}": word for name, text in (("a", answer), ("n", near)) for i, word in enumerate(text.split())
        }
        reply = pattern.format(**parts)
        people = [answer] * rng.randrange(1, 11)
        people += rng.choices([near, far, answer.upper(), "unanswerable"], k=10 - len(people))
        found.append({"reply": reply, "answer": answer, "answers": people, "why": why})
    return found


YES_NO = (
    "{Y}",
    "{y}",
    "{Y}.",
    " {y}\n",
    "{Y}, there is one.",
    "{Y}!",
    "**{Y}**",
    "The answer is {y}.",
    "{Y} {y}",
    "{YY}",
)
NEITHER = ("", "maybe", "I don't know", "It is a dog", "yesterday", "nothing", "yes or no", "<think>yes")


def build_yes_no() -> list[dict[str, Any]]:
    """`reply` and the right `answer`; `said` is what the reply says, None for neither."""
    found: list[dict[str, Any]] = []
    for answer, said, pattern in product(("yes", "no"), ("yes", "no"), YES_NO):
        reply = pattern.format(y=said, Y=said.capitalize(), YY=said.upper())
        found.append({"reply": reply, "answer": answer, "said": said})
    for answer, reply in product(("yes", "no"), NEITHER):
        found.append({"reply": reply, "answer": answer, "said": "yes" if reply == "yes or no" else None})
    return found


NOUNS, VERBS = ("dog", "cat", "man in a red shirt", "woman", "child's bike"), ("sits", "is standing", "runs", "waits")
PLACES = ("on a bench", "in the park.", "near the blue house", "beside two cars", "on the street, at night")


def build_captions() -> list[dict[str, Any]]:
    """`reply`, a caption, and `references`, five captions by people."""
    rng = random.Random(2)

    def say() -> str:
        return " ".join(rng.choice(words) for words in (("A", "The", "One"), NOUNS, VERBS, PLACES))

    return [{"reply": say(), "references": [say() for _ in range(5)]} for _ in range(120)]
