"""The kernel's parser under a fuzzer with the sanitizers, and gs's own on what that finds.

GS_FUZZ is the number of inputs; by default as many as take a few seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import fuzzer
from tests.unit.kernel_grammar import Grammar, disagreement

QUICK = 100_000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return fuzzer.build(tmp_path_factory.mktemp("fuzzer"))
    except fuzzer.NotHere as error:
        pytest.skip(str(error))


def test_no_input_breaks_the_kernels_parser_and_gs_agrees(program: Path, tmp_path: Path) -> None:
    inputs = int(os.environ.get("GS_FUZZ", QUICK))
    report, found = fuzzer.run(program, inputs, tmp_path)
    print(report)
    assert report.inputs >= inputs
    grammar = Grammar(tmp_path)
    differences = [disagreement(grammar, text) for text in found]
    assert not list(filter(None, differences))


#: Defects that a tired programmer makes: what stands in the parser, and in the place of that.
PLANTED = {
    "a word that does not end": ("p < end && !gs_is_blank(*p)", "!gs_is_blank(*p)"),
    "blanks behind the line": ("word < end && gs_is_blank(*word)", "gs_is_blank(*word)"),
    "an escape that is cut": ("len - i < 4", "len - i < 3"),
    "an escaped NUL": ("!c || c > 0377", "c > 0377"),
    "a path that is too long": ("n >= PATH_MAX", "n > PATH_MAX"),
    "a line that is too long": ("len > GS_LINE_MAX", "len > GS_LINE_MAX + 1"),
    "no room for the NUL": ("(plain ? 1 : 4) >= size", "(plain ? 1 : 4) > size"),
    "a newline that is not escaped": (" && c != '\\n'", ""),
}


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(defect: str, tmp_path: Path) -> None:
    sound = fuzzer.GRAMMAR.read_text()
    here, planted = PLANTED[defect]
    assert sound.count(here) == 1, "the parser has changed: plant it elsewhere"
    grammar = tmp_path / "grammar.c"
    grammar.write_text(sound.replace(here, planted))
    with pytest.raises(fuzzer.Broken):
        fuzzer.run(fuzzer.build(tmp_path, grammar), QUICK, tmp_path)


def test_both_parsers_say_the_same_of_the_corpus(tmp_path: Path) -> None:
    corpus = sorted(fuzzer.CORPUS.iterdir())
    assert len(corpus) >= 50
    grammar = Grammar(tmp_path)
    differences = [disagreement(grammar, path.read_bytes()) for path in corpus]
    assert not list(filter(None, differences))
