"""The report: what it says is what the records hold, it runs no name, asks for nothing, and works in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import html
import itertools
import json
import re
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_score, recall_score

import featstore
import probe
from probe.cli import main
from probe.predictions import Predictions
from probe.records import ResultFolder, digest_of
from probe.report import page as page_of_report
from probe.report import report_html, write_report
from probe.report.commands import sweep_command
from probe.report.confusion import Confusion, worst_mistakes
from probe.report.entries import entries_of
from probe.report.words import ranked, task_sentence
from probe.results import Results, load_results
from probe.studies.records import Failure, StudyFolder, StudyRecord
from probe.studies.results import StudyResults

EVIL = "<script>alert(1)</script>"
QUOTED = "\"' onmouseover=alert(2) x='"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the units of the bundled network on real digits: logistic, ridge, few-shot."""
    root = tmp_path_factory.mktemp("report")
    names = [f"digits:{part}+blur(1.0)" for part in ("train", "val", "test")]
    backbone = featstore.load_backbone("featstore:digits_net")
    splits = [featstore.load_split(name) for name in names]
    store = featstore.extract(backbone, splits, root / "store", progress=False)
    for options in ({}, {"classifier": "ridge"}, {"per_class": 5, "seeds": [1, 2]}):
        how: dict[str, Any] = dict(zip(("train", "val", "test"), names, strict=True)) | options
        probe.sweep(store, **how, out=root / "results", progress=False)
    return root


@pytest.fixture(scope="module")
def hostile(folder: Path) -> Results:
    """The same records under names that try to be markup, with fits that fell short, at the edge, without a class."""
    results, out = load_results(folder / "results"), ResultFolder(folder / "hostile")
    for i, record in enumerate(results):
        said = dataclasses.replace(results.predictions(record), classes=(EVIL, QUOTED, "&amp;", *"3456789"))
        changed = dataclasses.replace(
            record, key={**record.key, "i": i}, backbone=f"net {EVIL}", test=f"test {QUOTED}</style>{EVIL}", at_edge=i == 0,
            statuses={"converged": 44, "max_iter": 1}, absent={"test": [EVIL]},
        )  # fmt: skip
        out.write(changed, said)
    return load_results(folder / "hostile")


def texts(page: str) -> str:
    """The page's words without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


def test_the_numbers_on_the_page_are_those_of_the_records(folder: Path) -> None:
    """A row mixed up, or a column from another field, would publish a wrong number."""
    results = load_results(folder / "results")
    page = report_html(results)
    rows = re.search(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert rows is not None
    lines = rows[1].strip().split("\n")
    assert len(lines) == len(results)
    for line, record in zip(lines, results, strict=True):
        cells = [html.unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", line)]
        assert cells[1:3] == [record.backbone, record.unit]
        assert float(cells[6]) == pytest.approx(record.val_score, abs=5e-5)
        assert float(cells[7]) == pytest.approx(record.test_score, abs=5e-5)
        assert cells[9] == f"{record.n_test}"
        assert record.digest[:8] in line


def test_the_summary_ranks_by_validation_and_tests_on_test(folder: Path) -> None:
    """A summary that ranked by test scores would choose on what it reports."""
    results = load_results(folder / "results")
    full = [r for r in results if r.per_class is None]
    first, second = sorted(full, key=lambda r: -r.val_score)[:2]
    section = re.search(r'<section id="summary".*?</section>', report_html(results), re.DOTALL)
    assert section is not None
    summary = texts(section[0])
    assert f"{first.backbone}, {first.unit}" in summary.split("was the best of")[0]
    assert f"{first.test_score:.3f}" in summary
    p = probe.compare(results.predictions(first), results.predictions(second)).p_value
    assert f"p = {p:.2g}" in summary or p < 1e-4


@pytest.mark.parametrize("classifier", ["logistic", "ridge"])
def test_a_printed_command_finds_the_very_record(
    folder: Path, classifier: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """ "How to reproduce" that computed another thing would be worse than nothing: run, it must find every record."""
    results = load_results(folder / "results")
    for record in results:
        if record.classifier != classifier:
            continue
        words = shlex.split(sweep_command(record, folder / "results").command)
        assert words[-2:] == ["--out", str(folder / "results-again")]
        words[-1] = str(folder / "results")
        n_before = len(list((folder / "results").glob("*.json")))
        assert main([*words[1:], "--json", "--quiet"]) == 0
        assert len(list((folder / "results").glob("*.json"))) == n_before
        assert record.digest in capsys.readouterr().out


def commands(page: str) -> dict[str, str]:
    """The command of each result on a page, by the first digits of its record."""
    return {
        digest: html.unescape(command)
        for digest, command in re.findall(r"<summary>(\w{8})</summary><div class=\"again\"><code>(.*?)</code>", page)
    }


def test_a_command_of_a_sweep_computes_the_number_again_as_it_stands(folder: Path) -> None:
    """Copied from the page, nothing filled in, into an empty folder."""
    results = load_results(folder / "results")
    said = commands(report_html(results))
    assert set(said) == {r.digest[:8] for r in results}
    chosen = [
        next(r for r in results if r.per_class and r.unit == "penultimate"),
        next(r for r in results if r.classifier == "ridge"),
    ]
    for record in chosen:
        assert main([*shlex.split(said[record.digest[:8]])[1:], "--quiet"]) == 0
    again = {r.digest: r for r in load_results(folder / "results-again")}
    assert {d: r.test_score for d, r in again.items()} == {r.digest: r.test_score for r in chosen}


STUDY = """
seeds = [0, 1]
[[network]]
name = "random, 0"
spec = "featstore:digits_net"
options = { weights = "random", seed = 0 }
[[dataset]]
name = "it's rotated"
train = "digits:train+rotate(40)"
val = "digits:val+rotate(40)"
test = "digits:test+rotate(40)"
[[regime]]
name = "five"
function = "logistic"
options = { per_class = 5, C = [0.01, 1.0] }
"""


def test_a_command_of_a_study_computes_the_number_again_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the plan that the results keep: the file it was run from is gone. Its kept thumbnails are in the page, too."""
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(STUDY)
    assert main(["study", "plan.toml", "--run", "--thumbnails", "--no-near"]) == 0
    assert re.search(r"thumbnails of 451 test images kept, \d\.\d MB", capsys.readouterr().err)
    Path("plan.toml").unlink()
    assert main(["report", "runs/plan", "-o", "report.html"]) == 0
    page = Path("report.html").read_text()
    found = probe.load_study("runs/plan")
    for record in found:
        assert main([*shlex.split(commands(page)[record.digest[:8]])[1:], "--no-near", "--quiet"]) == 0
    again = probe.load_study("runs/plan-again")
    assert [(r.digest, r.names, r.test_score) for r in again] == [(r.digest, r.names, r.test_score) for r in found]
    with zipfile.ZipFile(next(Path("runs/plan/thumbnails").iterdir())) as kept:
        small = {base64.b64encode(kept.read(name)).decode() for name in kept.namelist() if name.endswith(".jpg")}
    shown = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(shown) == 16
    assert set(shown) <= small
    capsys.readouterr()
    assert main(["study", "runs/plan", "--table", "--seed", "1", "--json"]) == 0
    assert [row["seed"] for row in json.loads(capsys.readouterr().out)["results"]] == [1]


def test_a_plan_of_another_version_is_said_and_the_report_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out in silence, a reader would look for the command of these results in vain."""
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(STUDY.replace("[0, 1]", "[0]"))
    assert main(["study", "plan.toml", "--run", "--no-near", "--quiet"]) == 0
    (path,) = Path("runs/plan/plans").iterdir()
    said = json.loads(path.read_text())
    later = {**said, "format": 2}, {**said, "colour": "blue"}, {**said, "network": [{"spec": "x"}]}
    for one in later:
        (path.parent / f"{digest_of(one)[:12]}.json").write_text(json.dumps(one))
    path.write_text(json.dumps({**said, "seeds": [7]}))
    capsys.readouterr()
    assert main(["report", "runs/plan", "-o", "report.html"]) == 0
    err, page = capsys.readouterr().err, texts(Path("report.html").read_text())
    for words in ("has format 2 but this version reads format 1", "A study has no colour", "'name' is missing",
                  "it was changed after it was written"):  # fmt: skip
        assert words in err
        assert words in page
    assert err.count("probe: warning: The plan 'runs/plan/plans/") == 4
    assert "No plan of this result is among those that this version can read" in page


def test_a_study_of_objects_says_what_made_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file can name a split that was made in Python; a command that failed would be worse than the program that made it."""
    split = featstore.load_split("digits:train")
    asked = probe.Study(
        (probe.Network("featstore:digits_net"),),
        (probe.Dataset("some", split.subset(np.arange(0, 200), "a part"), split.subset(np.arange(200, 300), "another")),),
        (probe.Regime("logistic", options={"C": [0.1]}),), command="python make_it.py",
    )  # fmt: skip
    found = probe.run_study(asked, tmp_path / "s", near=False, progress=False)
    (plan,) = (tmp_path / "s" / "plans").iterdir()
    page = report_html(found)
    assert commands(page) == {found.records[0].digest[:8]: "python make_it.py"}
    assert "objects of Python" in texts(page)
    assert probe.Study.from_json(json.loads(plan.read_text())).cells[0].asked == asked.cells[0].asked
    for what, told in (("--table", "0.9"), ("--dry-run", "1 are done")):
        assert main(["study", str(plan), what]) == 0
        assert told in capsys.readouterr().out
    assert main(["study", str(plan), "--run"]) == 1
    assert "(a part, another), so that it cannot be run from its plan" in capsys.readouterr().err


def test_damaged_thumbnails_are_said(folder: Path, tmp_path: Path) -> None:
    """A page that left them out without a word would look as if nobody had kept any."""
    shutil.copytree(folder / "results", tmp_path / "r")
    results = load_results(tmp_path / "r")
    path = probe.keep_thumbnails(tmp_path / "r", featstore.load_split("digits:test+blur(1.0)"))
    assert "data:image/jpeg" in report_html(results)
    path.write_bytes(path.read_bytes()[:1000])
    page = report_html(results)
    assert "data:image/jpeg" not in page
    assert f"The thumbnails '{path}' cannot be read" in texts(page)


def test_seeds_that_change_nothing_are_one_result(folder: Path) -> None:
    """The same numbers twice, called a mean with a spread of nothing, would claim a certainty that nobody measured."""
    results = load_results(folder / "results")
    first = [e for e in entries_of(results) if e.task.per_class is None and e.candidate.regime == "logistic"][:2]
    again = [dataclasses.replace(e, seed=1) for e in first]
    found = ranked(first[0].task, first + again)
    said = task_sentence(found, "digits")
    assert "(the same with all 2 seeds)" in said
    assert found.comparison is not None
    other = ranked(first[0].task, [*first, *(dataclasses.replace(e, test_score=0.1) for e in again)])
    assert "mean of 2 seeds" in task_sentence(other, "digits")
    assert other.comparison is None


def test_names_from_data_never_become_markup(hostile: Results) -> None:
    """A class called <script> must be shown, not run."""
    page = report_html(hostile, title=EVIL)
    assert EVIL not in page
    assert html.escape(EVIL) in page
    assert "onmouseover=alert(2) x='" not in html.unescape(
        " ".join(re.findall(r"<[a-z][^>]*>", page)).replace("&#39;", "")
    )
    assert page.count("<script") == 1
    assert page.count("</script") == 1


def test_what_fell_short_is_listed(hostile: Results) -> None:
    """Every record of the fixture has a fit that did not converge and a class that train lacks."""
    page = texts(report_html(hostile))
    assert page.count("1 of ") >= len(hostile)
    assert "at the edge of the grid" in page
    assert f"{len(hostile)} of " in page


def test_confusion_and_scores_of_classes_are_scikit_learns() -> None:
    """Rows and columns exchanged would blame the wrong class."""
    rng = np.random.default_rng(0)
    y, said = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    found = Confusion.of(Predictions(np.arange(300).astype(str), y, said, tuple("abcd")))
    assert (found.counts == confusion_matrix(y, said)).all()
    by_name = {c.name: c for c in found.by_class()}
    for i, name in enumerate("abcd"):
        assert by_name[name].recall == pytest.approx(recall_score(y, said, labels=[i], average="macro"))
        assert by_name[name].precision == pytest.approx(precision_score(y, said, labels=[i], average="macro"))
    first = found.pairs(1)[0]
    wrong = confusion_matrix(y, said) * (1 - np.eye(4, dtype=int))
    assert first.n == wrong.max()
    assert wrong["abcd".index(first.true), "abcd".index(first.predicted)] == first.n


def test_worst_mistakes_are_the_surest_ones() -> None:
    """Enumerated: of the wrong rows, by score of the predicted minus score of the true class."""
    scores = np.array([[3.0, 1.0], [0.0, 5.0], [2.0, 1.0], [9.0, 0.0]])
    said = Predictions(np.array(list("abcd")), np.array([1, 0, 1, 0]), np.array([0, 1, 0, 0]), ("x", "y"), scores)
    assert [(m.id, m.margin) for m in worst_mistakes(said, 9)] == [("b", 5.0), ("a", 2.0), ("c", 1.0)]
    assert len(worst_mistakes(said, 1)) == 1


def test_images_are_of_the_rows_that_are_wrong(folder: Path) -> None:
    """The reader is asked for wrong rows only, and what it gives is in the page."""
    results = load_results(folder / "results")
    asked: list[str] = []

    def image_of(split: str, sample: str) -> Image.Image:
        assert split == "digits:test+blur(1.0)"
        asked.append(sample)
        return Image.new("L", (8, 8), 99)

    page = report_html(results, image_of=image_of)
    wrong = {i for r in results for i in results.predictions(r).ids[~results.predictions(r).correct].tolist()}
    assert asked
    assert set(asked) <= wrong
    assert page.count("data:image/jpeg;base64,") == len(asked)


def many(folder: Path, n: int, n_tasks: int) -> Results:
    """So many results under names of their own; the predictions behind them are those of a few."""
    results = load_results(folder / "results")
    whole = [r for r in results if r.per_class is None]
    records = []
    for i in range(n):
        base, place = (
            whole[i % len(whole)],
            {"backbone": f"timm:some_network_{i // 40}.a1_in1k", "test": f"task{i % n_tasks}:test"},
        )
        key = {**base.key, "i": i}
        records.append(dataclasses.replace(base, key=key, unit=f"layer{i % 8}", depth=i % 8, **place))  # type: ignore[arg-type]
    return Results(tuple(records), results.folder, 0, n)


def noise(split: str, sample: str) -> Image.Image:
    """The largest thumbnail there is: nothing in it can be compressed."""
    pixels = np.random.default_rng(zlib.crc32(sample.encode())).integers(0, 256, (96, 96, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_thousand_results_with_images_stay_below_five_megabytes(folder: Path, tmp_path: Path) -> None:
    """The issue's bound; many networks, units and tasks, each of which may want drawings and thumbnails."""
    path = write_report(many(folder, 1000, 5), tmp_path / "report.html", image_of=noise)
    assert path.stat().st_size < 5_000_000
    page = path.read_text()
    assert page.count("<details><summary>") >= 1000
    assert page.count("data:image/jpeg") == 5 * 16


def test_tasks_for_which_there_is_no_room_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that grew with the number of tasks would pass the bound; the table has every result, whatever is left out."""
    results = many(folder, 16, 4)
    whole = report_html(results, image_of=noise)
    monkeypatch.setattr(page_of_report, "MOST_BYTES", len(whole.encode()) // 2)
    part = report_html(results, image_of=noise)
    n = part.count("<article>")
    assert 1 <= n < whole.count("<article>") == 4
    assert len(part.encode()) < len(whole.encode()) * 0.75
    assert (
        f"The first {n} of 4 tasks: a page holds 40 at most, and as many as keep it below 5 MB; the table has all."
        in part
    )
    assert part.count("<details><summary>") - n == whole.count("<details><summary>") - 4 == 16


def test_nothing_to_report_and_a_file_that_is_no_page_are_said(folder: Path, tmp_path: Path) -> None:
    """One sentence each, and no file."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(probe.BadInput, match="holds no results"):
        write_report(load_results(tmp_path / "empty"), tmp_path / "a.html")
    with pytest.raises(probe.BadInput, match=r"does not end in \.html"):
        write_report(load_results(folder / "results"), tmp_path / "a.pdf")
    assert not list(tmp_path.glob("a.*"))


def test_the_command_names_damaged_records_and_still_writes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte in a record: exit code 1, its name on stderr and in the page."""
    copy = tmp_path / "results"
    shutil.copytree(folder / "results", copy)
    broken = sorted(copy.glob("*.json"))[0]
    broken.write_text(broken.read_text().replace('"accuracy"', '"accuracz"', 1))
    assert main(["report", str(copy), "-o", str(tmp_path / "r.html"), "--json"]) == 1
    told = capsys.readouterr()
    assert broken.stem in told.err
    assert broken.stem in (tmp_path / "r.html").read_text()
    assert json.loads(told.out)["n_results"] == len(load_results(folder / "results")) - 1


def test_images_of_a_split_by_its_name(folder: Path, tmp_path: Path) -> None:
    """The command line reads them again from the data set."""
    assert main(["report", str(folder / "results"), "-o", str(tmp_path / "r.html"), "--images"]) == 0
    assert "data:image/jpeg" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("name", ["a name of the user's", "digits:train"])
def test_images_of_a_study_by_the_split_it_asked_for(folder: Path, name: str) -> None:
    """What a study calls a data set is no name of a split: asking for it shows no image, or another split's."""
    asked = probe.Dataset(name, "digits:train+blur(1.0)", "digits:test+blur(1.0)")
    found = probe.run_study(
        probe.Study((probe.Network("featstore:digits_net"),), (asked,)), folder / f"own {len(name)}", progress=False
    )
    names: list[str] = []

    def image_of(split: str, sample: str) -> None:
        names.append(split)

    report_html(found, image_of=image_of)
    assert set(names) == {"digits:test+blur(1.0)"}


def test_a_held_out_share_has_the_images_of_train(folder: Path) -> None:
    """Without test the mistakes are those on the share of train, which is no split of a name."""
    store = featstore.open_store(folder / "store")
    found = probe.sweep(
        store, train="digits:train+blur(1.0)", val=0.5, units=["conv1"], out=folder / "held", progress=False
    )
    assert [entry.images for entry in entries_of(found)] == ["digits:train+blur(1.0)"]


def test_a_study_of_failures_says_why_there_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That there are no results would send a user looking for the folder, not for the error."""
    asked = probe.Study((probe.Network("featstore:nothing"),), (probe.Dataset("d", "digits:train", "digits:test"),))
    probe.run_study(asked, tmp_path / "study", progress=False)
    assert main(["report", str(tmp_path / "study"), "-o", str(tmp_path / "r.html")]) == 1
    assert re.search("all 1 cells failed.*nothing", capsys.readouterr().err)


def test_entries_say_what_tells_them_apart(folder: Path) -> None:
    """Few-shot results are another task than those of all rows."""
    tasks = {entry.task for entry in entries_of(load_results(folder / "results"))}
    assert {task.per_class for task in tasks} == {None, 5}


# In a real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, every request of it on record."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no Chromium with its driver (Debian: chromium, chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1300,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: Any, hostile: Results, tmp_path: Path) -> Any:
    """The hostile report, opened."""
    path = write_report(hostile, tmp_path / "report.html", title=f"Report {EVIL}")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    return browser


def shown_column(page: Any, column: int) -> list[str]:
    """Text of a column's visible cells, from top to bottom."""
    script = (
        "return Array.from(document.querySelectorAll('#table tbody tr')).filter(r => !r.hidden)"
        ".map(r => r.cells[arguments[0]].textContent)"
    )
    found: list[str] = page.execute_script(script, column)
    return found


def test_the_page_runs_without_errors_and_asks_for_nothing(page: Any) -> None:
    """No console message, no request but for the page itself, no dialog from a name."""
    assert page.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:///", "data:"))] == []
    assert len([url for url in urls if url.startswith("file:")]) == 1
    assert page.title == f"Report {EVIL}"


def test_the_table_fits_a_page_of_1200_pixels(page: Any) -> None:
    """Its last column, the way to the commands, was out of sight."""
    size = page.get_window_size()
    page.set_window_size(1200, 900)
    wide, there = page.execute_script(
        "const d = document.querySelector('.wide'); return [d.scrollWidth, d.clientWidth]"
    )
    page.set_window_size(size["width"], size["height"])
    assert wide <= there


def test_a_click_sorts_and_a_second_one_turns_round(page: Any) -> None:
    """Numbers as numbers, largest first; the header says which way."""
    head = page.find_element("css selector", "#table th:nth-child(8) button")
    values = [float(text) for text in shown_column(page, 7)]
    head.click()
    assert [float(text) for text in shown_column(page, 7)] == sorted(values, reverse=True)
    assert page.find_element("css selector", "#table th:nth-child(8)").get_attribute("aria-sort") == "descending"
    head.click()
    assert [float(text) for text in shown_column(page, 7)] == sorted(values)
    assert page.get_log("browser") == []


def test_filters_show_what_matches_and_can_be_taken_back(page: Any) -> None:
    """Words and choices together; the count is said aloud."""
    n = len(shown_column(page, 0))
    page.find_element("id", "filter-text").send_keys("conv1")
    units = shown_column(page, 2)
    assert set(units) == {"conv1"}
    assert page.find_element("id", "shown").text == f"{len(units)} of {n} results"
    regimes = page.find_element("css selector", "select[data-column='3']")
    regimes.find_element("xpath", "option[.='ridge']").click()
    assert set(zip(shown_column(page, 2), shown_column(page, 3), strict=True)) == {("conv1", "ridge")}
    page.find_element("css selector", "button[type=reset]").click()
    page.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(shown_column(page, 0)) == n


def test_the_page_works_from_the_keyboard(page: Any) -> None:
    """Sorting by Enter on a focused header; a drawing's marks by arrow keys, its value in the live tip."""
    from selenium.webdriver.common.keys import Keys

    head = page.find_element("css selector", "#table th:nth-child(7) button")
    page.execute_script("arguments[0].focus()", head)
    head.send_keys(Keys.ENTER)
    values = [float(text) for text in shown_column(page, 6)]
    assert values == sorted(values, reverse=True)
    figure = page.find_element("css selector", "figure[tabindex]")
    page.execute_script("arguments[0].focus()", figure)
    figure.send_keys(Keys.ARROW_RIGHT)
    tip = page.find_element("id", "tip")
    assert tip.is_displayed()
    title = page.execute_script("return arguments[0].querySelector('.mark title').textContent", figure)
    assert tip.text == title
    assert re.search(r"\d\.\d{4}$", title)
    figure.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_marks_say_the_values_that_are_drawn(page: Any, hostile: Results) -> None:
    """Hovering must tell the score of that unit, not of another."""
    said = page.execute_script(
        "return Array.from(document.querySelectorAll('figure svg .mark title'), t => t.textContent)"
    )
    for record in hostile:
        if record.per_class is None:
            assert any(record.unit in text and text.endswith(f"{record.test_score:.4f}") for text in said)


@pytest.fixture(scope="module")
def study(folder: Path) -> StudyResults:
    """A study of four networks on two data sets, two regimes, with a training history, a leak and a failed cell."""
    out, results = StudyFolder(folder / "study"), load_results(folder / "results")
    whole = [r for r in results if r.per_class is None]
    for i, (m, dataset, regime) in enumerate(itertools.product(range(4), ("photos", EVIL), ("logistic", "full"))):
        r = whole[i % len(whole)]
        asked = {"network": {"name": f"net{m}"}, "dataset": {"name": dataset}, "regime": {"name": regime}, "seed": 0}
        key = {"network": {"weights_digest": f"w{m}"}, "i": i}
        history = (
            [{"step": s, "epoch": s / 10, "accuracy": 0.5 + s / 100} for s in (10, 20, 30)] if regime == "full" else []
        )
        leaks = {"identical": {"test in train": 3}, "near": {}, "absent": {}}
        record = StudyRecord(
            key, asked, "accuracy", True, r.val_score, 0.6 + 0.05 * m + 0.01 * i / 16, r.test_interval, 100, 50, 451,
            0.6 + 0.1 * m, {"unit": "", "C": 0.5} if regime == "logistic" else {"lr": 0.1},
            {"seconds": 2.0}, {}, {"n_converged": 45, "grid": r.grid, "val_scores": r.val_scores, "status": "converged"}
            if regime == "logistic" else {}, leaks, tuple(history), {"numpy": "2"},
        )  # fmt: skip
        out.write(record, results.predictions(r))
    records, damaged = out.records()
    failure = Failure({**asked, "network": {"name": "broken"}}, f"the weights {EVIL} do not exist")
    return StudyResults(tuple(records), (failure,), out, 0, tuple(damaged))


def test_a_study_is_reported_with_what_only_a_study_shows(study: StudyResults) -> None:
    """The correlation with the source task in words, the drawings, the leak, the failure; nothing of it as markup."""
    page = report_html(study)
    words = texts(page)
    average = probe.correlate(study.table(failed=False).query("regime == 'full'"))[-1]
    assert f"r = {average.r:.2f}" in words
    assert "3 images of test are the same as images of train" in words
    assert "16 of 16 results were tested on images some of which are in train or val" in words
    assert f"failed: the weights {EVIL} do not exist" in html.unescape(page)
    assert EVIL not in page
    assert words.count("accuracy against accuracy on the source task") >= 2
    said = [html.unescape(text) for text in re.findall(r"<title>([^<]*)</title>", page)]
    row = study.table(failed=False).query("dataset == 'photos' and regime == 'full'").iloc[0]
    assert f"photos, full: {row['accuracy']:.4f}" in said
    assert any(text.startswith("net3: ") for text in said)
    assert any(text.startswith("full") or ": 0.8" in text for text in said)


def test_the_command_knows_a_study_by_its_folder(
    study: StudyResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweeps have their records at the top of the folder, studies one level down."""
    assert main(["report", str(study.folder.path), "-o", str(tmp_path / "r.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_results"] == len(study)
