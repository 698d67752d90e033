"""Read XQuAD-R and MLQA-R (LAReQA, Roy et al. 2020): question to the sentence that answers it.

One candidate per sentence of each paragraph, never de-duplicated; the relevant one holds the start of the
answer in its half-open span. That reproduces the published counts: XQuAD-R 13,090 questions and 13,014
candidates, MLQA-R 4,199 and 20,534. A question's relevant candidates are those of its id in every language.

Variants are different benchmarks: `sentence` is the sentence alone; `sentence+context` is the sentence, a
space, and its paragraph, line breaks turned to spaces.
"""

from __future__ import annotations

from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.corpus.readers.base import chosen_languages
from hbt_dist.data.squad_files import SquadParagraph, read_squad, sentences_of, squad_files


def read_lareqa(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read a folder of `{language}.json` files."""
    files = chosen_languages(squad_files(folder), languages, "refuse", folder)
    for language, path in files.items():
        for number, paragraph in enumerate(read_squad(path)):
            _add_paragraph(language, number, paragraph, variant == "sentence+context", into)


def _add_paragraph(
    language: str, number: int, paragraph: SquadParagraph, with_context: bool, into: BenchmarkBuilder
) -> None:
    sentences = sentences_of(paragraph)
    context = " ".join(paragraph.context.splitlines())
    for position, (_, _, sentence) in enumerate(sentences):
        text = f"{' '.join(sentence.splitlines())} {context}" if with_context else sentence
        into.add_candidate(_item(number, position), language, text, paragraph.location)
    for question in paragraph.questions:
        if not question.answer_starts:
            raise UserError(
                question.location, f"question {question.question_id!r} has no answer", "one is needed"
            )
        start = question.answer_starts[0]
        holding = [position for position, (b, e, _) in enumerate(sentences) if b <= start < e]
        if not holding:
            raise UserError(
                question.location,
                f"the answer of question {question.question_id!r} starts at {start}, outside every sentence",
                "repair answer_start or sentence_breaks",
            )
        into.add_question(
            question.question_id, language, question.text, question.location, cluster=(language, number)
        )
        into.add_relevant(question.question_id, _item(number, holding[0]), question.location, language)


def _item(paragraph: int, sentence: int) -> str:
    return f"{paragraph:05d}_{sentence:03d}"
