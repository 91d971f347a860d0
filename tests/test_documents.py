"""The documents are short, plain and complete, and what they link to and show as an example is there.

How things are counted, in the text that a reader sees (comments and markers are taken out, a link counts
by its words, a generated part by what stands between its markers):

    rendered line   a paragraph or list item: its length in lines of 110 characters, rounded up; a heading, a
                    picture, a table's row, a line of code: one each. Blank lines, a table's rule and the
                    fences of code: none.
    paragraph       a paragraph of prose or one item of a list; not a heading, a table or code.
    number          digits that stand alone in a paragraph: 0.17, 1.00, 50%, 1e-3. A value with the range or
                    interval in brackets behind it is one number. Not numbers: what stands in a code span, a
                    setting (`T = 50`, lambda = 1e-3), a name (Empty-16x16, 2x2, FourRooms-19, exp1,
                    "experiments 1 to 4"), a version (3.11.2, Python 3.11), a year or date.
    sentence        up to a full stop, question or exclamation mark before a space, or the paragraph's end.
    word            what stands between spaces and holds a letter or digit; in a sentence a code span is one
                    word, and so is a value with its bracket. In a table's cell every one counts.

Appendices (`tables.md` beside an experiment's README) hold whole generated tables: only their links are
checked here, and of READMEs that are not yet in READMES. That generated parts are current is tested in
tests/test_report.py.
"""

import contextlib
import io
import math
import re
from dataclasses import dataclass
from urllib.parse import unquote

import pytest

from common.run.files import ROOT

READMES = [
    "exp1_spectral_cliff/README.md",
    "exp2_funnel_heatmap/README.md",
    "exp3_planning_efficiency/README.md",
    "exp4_contrastive_fix/README.md",
    "exp5_feudal_hrm/README.md",
    "exp6_encoder_trm/README.md",
    "exp7_unseen_layouts/README.md",
    "exp8_two_pillars/README.md",
]
OTHERS = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("exp[0-9]_*/README.md"))
    if path.relative_to(ROOT).as_posix() not in READMES
]
DOCUMENTS = ["README.md", "EXPECTED_RESULTS.md", "CONTRIBUTING.md", "LOG.md", *READMES]
APPENDICES = [
    path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("exp[0-9]_*/tables.md"))
]  # fmt: skip
LINES = {"README.md": 160, "EXPECTED_RESULTS.md": 250}
LINE, NUMBERS, CELL_WORDS, SENTENCE_WORDS = 110, 3, 12, 35
ANSWER_SENTENCES, TABLES, TABLE_ROWS, PICTURES = 6, 5, 8, 1  # of an experiment's README

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
BRACKET = r"(?: \([^()]*? to [^()]*?\)| \[[^\[\]]*?, [^\[\]]*?\])"
NUMBER = r"(?<![\w.\-^/])[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?(?:\^-?\d+(?:\.\d+)?)?%?(?![\w-])"
NOT_NUMBERS = (
    r"\b[A-Za-z_]\w*(?: \w+)? ?(?:=|<=|>=|<|>) ?[-+]?[\d.]+(?:e[-+]?\d+)?",  # settings
    r"\b[Ee]xperiments? \d+(?:(?:, | and | to )\d+)*",
    r"\bPython \d[\d.]*|\b\d+\.\d+\.\d+\b",
    r"\b(?:19|20)\d\d(?:-\d\d(?:-\d\d)?)?\b",
)


@dataclass(frozen=True)
class Block:
    """A piece of a document: prose, item, heading, picture, row, rule or code; its text, its first line."""

    kind: str
    text: str
    line: int


def visible(text: str) -> str:
    """The text without comments, with links as their words."""
    text = COMMENT.sub("", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\([^)]*\)", r"\1", text)


def blocks(text: str) -> list[Block]:
    """The document cut into blocks; a paragraph's lines are joined."""
    text = COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
    found: list[Block] = []
    fenced = open_prose = False
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("```"):
            fenced, open_prose = not fenced, False
        elif fenced:
            found += [Block("code", line, number)] if bare else []
        elif not bare:
            open_prose = False
        elif (kind := _kind_of(bare)) != "prose":
            found.append(Block(kind, bare, number))
            open_prose = kind == "item"
        elif open_prose:
            last = found.pop()
            found.append(Block(last.kind, f"{last.text} {bare}", last.line))
        else:
            found.append(Block("prose", bare, number))
            open_prose = True
    return found


def _kind_of(line: str) -> str:
    if line.startswith("|"):
        return "rule" if set(line) <= set("|-: ") and "-" in line else "row"
    if line.startswith("#"):
        return "heading"
    if line.startswith("!["):
        return "picture"
    return "item" if re.match(r"(?:[-*] |\d+\. )", line) else "prose"


def rendered_lines(text: str) -> int:
    """How many lines the document has for its reader."""
    filled = sum(math.ceil(len(block.text) / LINE) for block in prose(text))
    return filled + sum(block.kind not in ("prose", "item", "rule") for block in blocks(text))


def prose(text: str) -> list[Block]:
    """Paragraphs and items, as they read."""
    return [
        Block(block.kind, visible(block.text), block.line)
        for block in blocks(text)
        if block.kind in ("prose", "item")
    ]


def numbers(paragraph: str) -> list[str]:
    """The numbers of a paragraph as it reads."""
    paragraph = re.sub(r"`[^`]*`", "code", paragraph)
    paragraph = re.sub(rf"({NUMBER}){BRACKET}", r"\1", paragraph)
    for pattern in NOT_NUMBERS:
        paragraph = re.sub(pattern, "name", paragraph)
    return re.findall(NUMBER, re.sub(r"^\d+\. ", "", paragraph))


def words(text: str) -> list[str]:
    return re.findall(r"\S*[A-Za-z0-9]\S*", text)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph as it reads, a code span or a value with its bracket as one word."""
    paragraph = re.sub(r"`[^`]*`", "code", paragraph)
    paragraph = re.sub(rf"({NUMBER}){BRACKET}", r"\1", paragraph)
    return [part for part in re.split(r"(?<=[.?!])[)\"'*]*\s+", paragraph) if words(part)]


def cells(row: str) -> list[str]:
    """The cells of a table's row."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def tables(text: str) -> list[list[Block]]:
    """The rows of each table, its head first."""
    found: list[list[Block]] = []
    last = 0
    for block in blocks(text):
        if block.kind in ("row", "rule"):
            if block.line != last + 1:
                found.append([])
            last = block.line
        if block.kind == "row":
            found[-1].append(Block("row", visible(block.text), block.line))
    return found


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def at(document: str, block: Block, said: object) -> str:
    return f"{document}:{block.line}: {said}"


# --- how it is counted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("success 0.17 [0.1, 0.2] against 0.5 (0.4 to 0.6)", ["0.17", "0.5"]),
        ("Empty-16x16, the 2x2, FourRooms-19, exp1, T = 50, `T=50`, z_0, experiments 1 to 4", []),
        ("Python 3.11 in 2026, on 2026-11-30, version 1.0.1, lambda = 1e-3, sigma 0.05", ["0.05"]),
        ("-0.137, 50%, 10^24.5 and 1e-3.", ["-0.137", "50%", "10^24.5", "1e-3"]),
    ],
)
def test_what_counts_as_a_number(paragraph, expected):
    assert numbers(paragraph) == expected


def test_what_counts_as_a_sentence_a_line_and_a_cell():
    assert [len(words(part)) for part in sentences("One is 0.5 (0.4 to 0.6). See `a b c`? Yes")] == [3, 2, 1]
    text = (
        "# a\n\n"
        + "x" * 111
        + "\nmore\n\n| a | b |\n|---|---|\n| c<!-- d --> | [e f](g) |\n\n```\ncode\n\n```\n"
    )
    assert rendered_lines(text) == 1 + 2 + 2 + 1
    assert [cells(row.text) for row in tables(text)[0]] == [["a", "b"], ["c", "e f"]]


# --- the documents --------------------------------------------------------------------------------


@pytest.mark.parametrize(("document", "limit"), LINES.items())
def test_documents_are_short(document, limit):
    assert rendered_lines(read(document)) <= limit


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paragraphs_hold_few_numbers(document):
    wrong = [
        at(document, block, found)
        for block in prose(read(document))
        if len(found := numbers(block.text)) > NUMBERS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_are_short(document):
    wrong = [
        at(document, block, sentence)
        for block in prose(read(document))
        for sentence in sentences(block.text)
        if len(words(sentence)) > SENTENCE_WORDS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_cells_are_short(document):
    wrong = [
        at(document, row, cell)
        for table in tables(read(document))
        for row in table
        for cell in cells(row.text)
        if len(words(cell.replace("`", ""))) > CELL_WORDS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", READMES)
def test_an_experiments_readme_answers_first(document):
    text = read(document)
    found = blocks(text)
    heads = [block.text for block in found if block.kind == "heading"]
    assert heads[1] == "## Answer", "the answer comes first"
    answer = text.split("## Answer", 1)[1].split("\n## ", 1)[0]
    assert 1 <= sum(len(sentences(block.text)) for block in prose(answer)) <= ANSWER_SENTENCES
    assert sum(block.kind == "picture" for block in found) <= PICTURES
    for head in ("## Run it", "## What was measured", "## What does not hold", "## How to read the code"):
        assert head in heads
    measured = text.split("## What was measured", 1)[1].split("\n## ", 1)[0]
    assert len(tables(measured)) <= TABLES
    assert all(len(table) - 1 <= TABLE_ROWS for table in tables(measured))


# --- links ----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    heads = (visible(block.text).lstrip("#").strip() for block in blocks(text) if block.kind == "heading")
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHERS, *APPENDICES])
def test_links_and_anchors_resolve(document):
    wrong = []
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", read(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            wrong.append(link)
    assert not wrong, f"{document}: {', '.join(wrong)}"


def test_names_of_the_code_that_readmes_cite_exist():
    """A link to a file and a `name` behind it, under "How to read the code": the file defines the name."""
    wrong = []
    for document in READMES:
        section = read(document).split("## How to read the code", 1)[1].split("\n## ", 1)[0]
        for file, name in re.findall(r"\[`([\w/]+\.py)`\]\([^)]*\)\s`(\w+)`", section):
            path = (ROOT / document).parent / file
            path = path if path.exists() else ROOT / file
            if not path.exists() or not re.search(
                rf"\b(?:def|class) {name}\b", path.read_text(encoding="utf-8")
            ):
                wrong.append(f"{document}: {file} {name}")
    assert not wrong, wrong


# --- the example ----------------------------------------------------------------------------------


def test_the_readmes_example_runs():
    section = read("README.md").split("## Use the parts", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {"__name__": "example"})  # what a reader would type
    assert said.getvalue().strip()


# --- the founding claims --------------------------------------------------------------------------

# The founding documents' claims in their order, under the first cell of the row that answers each.
FIVE = ("Empty-8x8", "Empty-16x16", "KeyCorridorS3R1", "DoorKey-8x8", "FourRooms")
FOUNDING_CLAIMS = (
    # tiers
    "minimum viable: HELM's norm below flat's at `T=50`",
    "minimum viable: HELM's basin coverage",
    "minimum viable: HELM's success at `T=50`, closed",
    "strong: HELM's norm at `T=100`",
    "strong: flat explodes at `T=100`",
    "strong: HELM's norm where flat has e^30",
    "strong: HELM's basin coverage",
    "overview: HELM's basin coverage",
    "strong: flat basin coverage",
    *(f"strong: HELM's success, {env}" for env in FIVE),
    *(f"strong: HELM minus CEM, {env}" for env in FIVE),
    "exceptional: all strong criteria",
    "exceptional: an ablation shows synergy",
    "exceptional: a cascade beyond `T=200`",
    # published figures
    "linear system, flat, `T=50`",
    "linear system, HELM, `T=50`",
    "basin coverage, flat",
    "basin coverage, HELM",
    "coverage, HELM over flat",
    "HELM has a bounded Lipschitz constant",
    "flat models give NaN and diverge",
    "reconstruction model, flat planner",
    "its prediction error",
    "its latent has all states equidistant",
    "baseline stuck at its distance",
    "unified model, Empty-8x8",
    "unified model, final distance",
    # the two-pillars report
    "spectral regularity alone is not sufficient",
    "metric alignment alone is not sufficient",
    "metric alignment is necessary",
    "spectral regularity is necessary, closed loop",
    "spectral regularity is necessary, open loop, verified gradient",
    "both are jointly sufficient, closed loop",
    "both are jointly sufficient, published planner",
    "the two need each other",
    "both pillars where dynamics expand",
    # the feudal HRM
    "the feudal loss decreases",
    "goals improve accuracy",
    "there is an optimal feudal weight",
    "there is an optimal manager period",
    # the encoder TRM
    "minimal success: an encoder reaches the table",
    "good success",
    "partial success",
    "failure: no better than without a context",
    "E0: the table memorises",
    "E1: the encoder approaches E0",
    "E_diag1: a frozen encoder is like E0",
    "E2: depth extracts richer patterns",
    "E3: a variational encoder avoids trivial solutions",
    "E4: a lower rate mends it",
    "E5: clipping mends it",
    "E6: all three together mend it",
    "E7: attention pooling mends it",
    "unseen tasks are solved",
    # advice
    "exp1: the log must show `spec=`",
    "exp1: `lambda_spectral`",
    "exp1: world-model error",
    "exp1: try `T=5` first",
    "exp1: the flat model always trains",
    "exp2: the HF loss must not be zero",
    "exp2: `lambda_hf`",
    "exp2: sigma against the domain",
    "exp2: the flat model always trains",
    "exp3: check the goal's encoding",
    "exp3: world-model error",
    "exp3: `gumbel_tau`",
    "exp3: try `T=5` first",
    "exp3: `lambda_spectral`",
    "exp5: `--max-steps` of a comparison",
    "exp6: watch the encoder's gradient norm",
)
FOUNDING_SETTINGS = (
    "lambda_spectral", "compute_spectral_reg", "lambda_hf", "hf_noise_sigma", "horizons",
    "planning_horizons", "coarse_stride", "gumbel_tau", "gd_steps", "gd_lr", "cem_num_samples",
    "cem_num_iters", "cem_elite_frac", "gd_steps_coarse", "gd_steps_fine", "env_name", "domain_range",
    "feudal_loss_weight", "manager_period", "goal_dim", "gating",
)  # fmt: skip
FOUNDING_NAMES = (
    "linear_exp1.py", "generate_final_plots.py", "flat_model_T", "helm_model_T", "env_minigrid.py",
    "world_models.py", "train_world_model", "planners.py", "gradient_planner_flat", "gradient_planner_helm",
    "compute_spectral_reg", "run_planning.py", "exp3_contrastive_fix.py",
)  # fmt: skip
CLAIM_COLUMNS = ["documents say", "as published", "best here", "verdict"]


def test_every_founding_claim_is_answered():
    """A claim is the first cell of one row of a table with these columns, and no cell of the row is empty."""
    found = [
        cells(row.text)
        for table in tables(read("EXPECTED_RESULTS.md"))
        if cells(table[0].text)[1:] == CLAIM_COLUMNS
        for row in table[1:]
    ]
    claims = [row[0] for row in found]
    assert len(set(claims)) == len(claims)
    assert not [claim for claim in FOUNDING_CLAIMS if claim not in claims]
    assert not [row[0] for row in found if not all(words(cell) for cell in row)]


def test_every_founding_setting_and_name_is_mapped():
    firsts = " ".join(cells(row.text)[0] for table in tables(read("EXPECTED_RESULTS.md")) for row in table)
    known = set(re.findall(r"[\w.]+", firsts))
    assert not [name for name in (*FOUNDING_SETTINGS, *FOUNDING_NAMES) if name not in known]
