"""What the pages of docs/ and benchmarks/ say is checked: commands, flags, links, files, figures, and the citation."""

import configparser
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from medical_vqa import COMMANDS as COMMANDS_OF_THE_PACKAGE
from modeling.training.parser import parse_arguments
from tests.support.example_rows import load_example_rows

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
NAMES = sorted(TEXTS)
RESULTS = TEXTS["docs/results.md"]
CARD = (ROOT / "docs" / "model_card" / "README.md").read_text(encoding="utf-8")
REPORTS = {
    "starter, seed 43": "vilt_starter",
    "BLIP-2 starter, seed 43": "blip2_starter",
    "LLaVA starter": "vlm_starter",
}
LONGEST = 250  # lines of a page
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def words_of(line: str) -> list[str]:
    """A command line as words, without a comment and without variables that are set before it."""
    line = line.replace("$SLAKE_DIR", "slake").replace("$VQA_RAD_DIR", "rad").replace("[", "").replace("]", "")
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    return words


def commands_of(text: str) -> list[str]:
    """The lines of blocks of bash, and the commands in sentences."""
    lines = [line for kind, block in BLOCK.findall(text) if kind == "bash" for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", prose(text))
    programs = "make|python|accelerate|torchrun|medical-vqa"
    lines += [line for line in inline if re.match(rf"([A-Z_]+=\S+ )?({programs}) \S", line)]
    return [shlex.join(words) for words in map(words_of, lines) if words]


COMMANDS = [(page, command) for page, text in TEXTS.items() for command in dict.fromkeys(commands_of(text))]


def commands_with(part: str) -> list[tuple[str, str]]:
    return [(page, command) for page, command in COMMANDS if part in f"{command} "]


MODULES = [(page, command) for page, command in commands_with("python -m ") if "-m pip" not in command]
PACKAGE = [(page, command) for page, command in COMMANDS if re.match(r"medical-vqa \w+ \S", command)]


def test_commands_of_every_kind_are_found():
    assert len(commands_with("train.py ")) >= 20
    assert len({command.split()[2] for _, command in MODULES}) >= 19
    assert len({command.split()[1] for _, command in PACKAGE}) >= 8
    assert len(commands_with("make ")) >= 8


@pytest.mark.parametrize(("page", "command"), commands_with(" train.py "))
def test_train_commands_are_accepted(page, command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    flags = words[words.index("train.py") + 1 :]
    if flags != ["--help"]:
        parse_arguments([*flags, "--output_dir", str(tmp_path)])
    for name in re.findall(r"\S+\.yaml", command):
        assert (ROOT / name).is_file()


@pytest.mark.parametrize(("page", "command"), MODULES)
def test_modules_exist_and_know_their_flags(page, command, monkeypatch, capsys):
    words = shlex.split(command)
    module = words[words.index("-m") + 1]
    if module == "streamlit":
        assert (ROOT / words[-1]).is_file()
        return
    file = ROOT.joinpath(*module.split("."))
    assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file()
    flags = {word for word in words if word.startswith("--")}
    if not flags:
        return
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    for name in (module, f"{module}.__main__"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # else runpy warns that it runs it a second time
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    assert flags <= set(re.findall(r"--\w+", capsys.readouterr().out))


@pytest.mark.parametrize(("page", "command"), PACKAGE)
def test_commands_of_the_package_are_accepted(page, command):
    name, *words = shlex.split(command)[1:]
    importlib.import_module(COMMANDS_OF_THE_PACKAGE[name].module).make_parser().parse(words)


@pytest.mark.parametrize(("page", "command"), [pair for pair in COMMANDS if pair[1].startswith("make ")])
def test_make_targets_exist(page, command):
    done = subprocess.run(
        ["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def anchors_of(file: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(file.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {name if plain.index(name) == i else f"{name}-{plain[:i].count(name)}" for i, name in enumerate(plain)}


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# SLAKE, train `x`\n```bash\n# no heading\n```\n## 3. A-b: c?\n## Tests\n## Tests\n")
    assert anchors_of(page) == {"slake-train-x", "3-a-b-c", "tests", "tests-1"}


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(TEXTS[name])):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name}: {target}"
        assert file.is_relative_to(ROOT), f"{name}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{name}: {target}"


def test_the_list_of_pages_links_every_page():
    links = set(re.findall(r"\]\((\w+\.md)\)", TEXTS["docs/README.md"]))
    assert links == {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"}


@pytest.mark.parametrize("name", NAMES)
def test_pages_begin_with_a_title_and_end_soon(name):
    assert TEXTS[name].startswith("# ")
    assert len(TEXTS[name].splitlines()) <= LONGEST


FOLDERS = [folder.name for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith((".", "output"))]
TEST_FILES = {file.name for file in (ROOT / "tests").rglob("*.py")}


@pytest.mark.parametrize("name", NAMES)
def test_files_and_folders_that_a_page_names_exist(name):
    for path in re.findall(r"`([\w./]+)`", prose(TEXTS[name])):
        if path.split("/")[0] in FOLDERS and "/" in path:
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path
        elif path.startswith("test_") and path.endswith(".py"):
            assert path in TEST_FILES, path


@pytest.mark.parametrize("row", REPORTS)
def test_figures_of_the_starters_on_slake_are_those_of_their_reports(row):
    folder = ROOT / "docs" / "reports" / REPORTS[row]
    report = json.loads((folder / "report.json").read_text())["validation"]
    kinds = {(entry["group"], entry["value"]): entry for entry in report["figures"]}
    everything = kinds["all", ""]
    cells = [f"{everything['questions']:,}"]
    cells += ["{:.2f} ({:.2f} to {:.2f})".format(*everything[name]) for name in ("exact_match", "f1")]
    apart = kinds.get(("near neighbour in training", "none"))
    text = "{:.2f} ({:.2f} to {:.2f}) ({:,})"
    cells.append(text.format(*apart["exact_match"], apart["questions"]) if apart else "-")
    cells += ["{:.2f}".format(kinds["answer_type", kind]["exact_match"][0]) for kind in ("OPEN", "CLOSED")]
    [line] = [line for line in RESULTS.splitlines() if f"| {row} |" in line]
    assert cells_of(line)[2:] == cells
    for name in re.findall(r"\(([\w.]+)\)", (folder / "report.md").read_text()):
        assert not name.endswith((".png", ".jpg")) or (folder / name).is_file()


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_figures_of_the_demo_are_those_of_its_card():
    rows = {tuple(cells_of(line)[:2]): cells_of(line) for line in CARD.splitlines() if line.startswith("| test |")}
    titles = ("Exact Match", "F1", "OPEN accuracy", "CLOSED accuracy")
    em, f1, open_em, closed_em = (rows["test", title][2] for title in titles)
    _, _, apart, interval, number, majority = rows["test", "Exact Match without near neighbours"]
    index = next(i for i, line in enumerate(RESULTS.splitlines()) if "`make demo`" in line)
    demo, baseline = (cells_of(line)[-6:] for line in RESULTS.splitlines()[index : index + 2])
    questions = rows["test", "Exact Match"][4]
    assert demo == [questions, em, f1, f"{apart} ({interval}) ({number})", open_em, closed_em]
    assert baseline[1] == rows["test", "Exact Match"][5]
    assert baseline[3] == f"{majority} ({number})"
    assert f"| as it is | {em} |" in TEXTS["docs/looking.md"]


PLACE = "place of the abnormality"


def test_figures_of_the_probe_are_those_of_its_report():
    probe = (ROOT / "docs" / "reports" / "vilt_starter" / "probe.md").read_text(encoding="utf-8")
    rows = {cells_of(line)[0]: cells_of(line)[1:] for line in probe.splitlines() if line.startswith("| ")}
    page = " ".join(TEXTS["docs/looking.md"].split())
    whole, other_image, blank, blurred = (
        f"{float(rows[name][0]):.1f}" for name in ("as it is", "image of another row", "blank", "blurred")
    )
    assert f"From {whole} EM it falls to {other_image} with the image of another row, to {blank} with a blank" in page
    assert f"to {blurred} with a blurred one" in page
    parts: dict[str, list[list[str]]] = {}  # of the questions in other words, by where the wordings are from
    for part, *others in map(cells_of, probe.splitlines()):
        parts.setdefault(part, []).append(others)
    figures = {part: cells for part, lines in parts.items() for cells in lines if cells[:1] == ["all"]}
    _, _, slake, same, *_ = figures["SLAKE's wordings"]
    assert (
        f"Of {slake} other wordings that SLAKE itself has, {float(same.split()[0]):.1f} % get the same answer" in page
    )
    _, _, unseen, same, em, as_asked = figures["wordings never trained on"]
    assert f"Of {unseen} that training never uses it is {float(same.split()[0]):.1f} %" in page
    assert f"their EM is {float(em):.1f} ({float(as_asked):.1f} as asked)" in page
    _, _, typed, same, em, as_asked = figures["wordings of the file"]
    assert f"Of {typed} that somebody typed" in page
    assert f"it is {float(same.split()[0]):.1f} %, and their EM is {float(em):.1f} ({float(as_asked):.1f})" in page
    place = [float(line[3].split()[0]) for lines in parts.values() for line in lines if line[:1] == [PLACE]]
    assert f"other wordings keep the answer in {min(place):.0f} to {max(place):.0f} %" in page


def test_figures_of_the_models_to_choose_from_are_those_of_the_results():
    section = TEXTS["docs/faq.md"].partition("## 9.")[2].partition("## 10.")[0]
    figures = re.findall(r"\b\d\d\.\d\d(?: ± \d\.\d\d)?", section)
    assert len(figures) >= 5
    shares = {f"{100 * float(share):.2f}" for share in re.findall(r"0\.\d{4}", RESULTS)}
    assert all(figure in RESULTS or figure in shares for figure in figures)


def test_example_rows_of_ones_own_data_load(tmp_path):
    dataset = load_example_rows(TEXTS["docs/data.md"], tmp_path)
    assert sum(map(len, dataset.values())) == 12
    assert set(dataset["train"]["answer_type"]) == {"OPEN", "CLOSED"}


def python_of(page: str) -> str:
    [text] = [text for kind, text in BLOCK.findall(TEXTS[page]) if kind == "python"]
    return text


def test_metric_of_the_page_scores(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(compile(python_of("docs/metrics.md"), "docs/metrics.md", "exec"), names)
    prediction = {"id": "1", "prediction_text": "the left lung.", "no_answer_probability": 0.0}
    reference = {"id": "1", "answers": {"text": ["Left lung"], "answer_start": [0]}}
    assert names["squad_v2"].compute(predictions=[prediction], references=[reference])["exact"] == 100


@pytest.mark.skipif("SLAKE_DIR" not in os.environ, reason="needs SLAKE_DIR")
def test_the_tokenizer_of_the_starters_knows_as_little_chinese_as_the_page_says(capsys):
    exec(compile(python_of("docs/faq.md"), "docs/faq.md", "exec"), {})
    questions, unknown, different, alike = capsys.readouterr().out.split()
    said = " ".join(TEXTS["docs/faq.md"].split())
    assert f"of SLAKE's {int(questions):,} Chinese questions, {unknown.replace('%', ' %')} of all tokens are" in said
    assert f"and {different} different questions look like {alike}" in said


def test_the_citation_names_this_version_and_its_sources():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg")
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["message"]
    assert citation["title"].startswith("Medical-VQA")
    assert citation["authors"] == [{"name": "Medical-VQA contributors"}]
    assert str(citation["version"]) == package["metadata"]["version"]
    assert citation["license"] == package["metadata"]["license"]
    assert ", ".join(citation["keywords"]) == package["metadata"]["keywords"]
    references = {reference["title"].split(":")[0]: reference for reference in citation["references"]}
    assert [reference["year"] for reference in references.values()] == [2021, 2018, 2021, 2023, 2018]
    assert {"SLAKE", "ViLT", "BLIP-2"} < set(references)
    for reference in references.values():
        assert reference["type"] in ("article", "conference-paper")
        assert reference["url"].startswith("https://")
        assert all(author.keys() == {"family-names", "given-names"} for author in reference["authors"])
