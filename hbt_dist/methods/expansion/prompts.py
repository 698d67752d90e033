"""The prompts of the four strategies of arXiv 2511.19325, which doesn't print its own.

They follow the papers that introduced the strategies for expansion: zero-shot and few-shot ask for the
passage itself (HyDE, arXiv 2212.10496; query2doc, arXiv 2303.07678), chain-of-thought asks for the rationale
before the answer (arXiv 2305.03653), rephrase-and-respond for the question in other words and then an answer
(arXiv 2311.04205). The instruction is English, the answer is asked for in the language of the question.

A model with a chat template gets the prompt as the user's message, any other as plain text that ends where
the expansion begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hbt_dist.data.language_facts import describe
from hbt_dist.methods.expansion.settings import Strategy

_EXAMPLES = (
    (
        "Why do leaves turn yellow in autumn?",
        "In autumn trees stop making chlorophyll, the green pigment of their leaves. As it breaks down, "
        "yellow and orange carotenoids that were there all summer become visible.",
    ),
    (
        "Who painted the ceiling of the Sistine Chapel?",
        "The ceiling of the Sistine Chapel in the Vatican was painted by Michelangelo between 1508 and 1512 "
        "on the commission of Pope Julius II.",
    ),
    (
        "How long is the river Danube?",
        "The Danube is the second-longest river in Europe. It flows for about 2,850 kilometres from the "
        "Black Forest in Germany to the Black Sea.",
    ),
)

#: Strategy -> prompt, with {question} and {language}, the English name of the language to write in.
PROMPTS: Mapping[Strategy, str] = MappingProxyType(
    {
        "zero-shot": "Write a short passage in {language} that answers the question.\n\n"
        "Question: {question}\nPassage:",
        "few-shot": "Write a short passage in {language} that answers the question.\n\n"
        + "".join(f"Question: {question}\nPassage: {passage}\n\n" for question, passage in _EXAMPLES)
        + "Question: {question}\nPassage:",
        "chain-of-thought": "Answer the question in {language}. Think step by step and give the rationale "
        "before the answer.\n\nQuestion: {question}\nRationale and answer:",
        "rephrase-and-respond": "Rephrase and expand the question in {language}, and respond to it in "
        "{language}.\n\nQuestion: {question}\nRephrased question and response:",
    }
)

#: What a plain model writes when it goes on to the next example; the expansion ends before it.
STOP = "\nQuestion:"


def build_prompt(strategy: Strategy, question: str, language: str) -> str:
    """The prompt for a question, to be answered in a language given by its code."""
    # One pass, so that braces in a question stay what they are.
    before, after = PROMPTS[strategy].replace("{language}", describe(language).name).rsplit("{question}", 1)
    return f"{before}{question}{after}"


def clean(text: str) -> str:
    """An expansion as it goes into the file: up to `STOP`, on one line."""
    return " ".join(text.split(STOP, 1)[0].split())
