"""The report and the supplement: what stands on them is the tables', and nothing is left out."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_study import make_full_study, make_results, make_study

from mufree.analysis.verdicts import judge
from mufree.publish import contents
from mufree.publish.figures import FIGURES, save
from mufree.publish.report import available, pages, to_html, to_pdf, write, write_supplement
from mufree.publish.report.blocks import show
from mufree.publish.results import Results
from mufree.publish.words import interval, number, percent, span
from mufree.study.hypotheses import Hypotheses

TASK = "patches-mlp"
SMALL: dict[str, Any] = {"tasks": (TASK,), "widths": (32, 64, 128), "log2_lrs": tuple(range(-13, -5))}
RULE = {
    "kind": "control",
    "claim": "It stays.",
    "decided_by": "By its interval.",
    "expects": "open",
    "known": "Nothing.",
}
WRITTEN = Hypotheses.model_validate(
    {
        "hypotheses": [
            RULE
            | {"id": "C1", "written": "2026-01-01"}
            | {"conditions": [{"statistic": "drift", "subject": "mup_schedulefree", "rule": "inside", "margin": 0.25}]}
        ],
        "deviations": [{"date": "2026-01-02", "what": "A margin.", "why": "It was wrong.", "after_results": True}],
    }
)


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return make_study(**SMALL)


@pytest.fixture(scope="module")
def full() -> dict[str, pd.DataFrame]:
    return make_full_study(**SMALL)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stand-ins for all figures, as the layout takes any picture."""
    folder = tmp_path_factory.mktemp("figures")
    for stem in [contents.OVERVIEW, *(f"{TASK}.{name}" for name in FIGURES)]:
        save(Figure(figsize=(2, 1)), pd.DataFrame({"a": [1]}), folder / stem)
    return folder


@pytest.fixture
def pictures(drawn: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    for path in drawn.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def blocks(page: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    groups = [group["blocks"] for section in page["sections"] for group in section["groups"]]
    return [block for found in [page["lead"], *groups] for block in found if block["kind"] == kind]


def all_stems() -> set[str]:
    return {contents.OVERVIEW, *(f"{TASK}.{name}" for name in FIGURES)}


# --- numbers and tables ----------------------------------------------------------------------------------------------


def test_numbers_are_rounded_as_a_person_reads_them() -> None:
    assert number(-0.0004) == "0.000"
    assert number(-1.25, 1) == "−1.2"
    assert number(0.5, 2, sign=True) == "+0.50"
    assert number(np.nan) == number(None) == number(pd.NA) == "—"
    assert number(np.int64(-9), 0) == "−9"
    assert interval(-1.0, 0.25, 2, sign=True) == "[−1.00, +0.25]"
    assert interval(np.nan, 1.0) == "—"
    assert percent(0.1234) == "12.3 %"
    assert span([3, 1, 2, 1]) == "1, 2, 3"
    assert span(range(-14, -5)) == "−14 to −6, 9 values"


def test_an_estimate_stands_with_its_interval_and_a_mean_with_its_error() -> None:
    frame = pd.DataFrame(
        {
            **{"task": ["a", "a"], "method": ["sp_adamw", "x"], "drift": [-1.0, np.nan]},
            **{"drift_low": [-1.25, np.nan], "drift_high": [-0.75, np.nan], "drift_low90": [-1.2, np.nan]},
            **{"n_learnt_nothing": [1, 0], "window_low": [-9.0, -8.0], "window_high": [-5.0, -4.0]},
            **{"best_loss": [1.5, 2.0], "best_loss_se": [0.01, np.nan], "passed": [True, False], "empty": [np.nan] * 2},
        }
    )
    shown = show("What it says.", frame, {"sp_adamw": "SP · AdamW"})
    assert shown["columns"] == [
        *("method", "drift (doublings per doubling)", "n learnt nothing", "window low", "window high"),
        *("best loss (nats)", "passed"),
    ]
    assert shown["rows"] == [
        ["SP · AdamW", "−1 [−1.25, −0.75]", "1", "−9", "−5", "1.500 ± 0.010", "yes"],
        ["x", "—", "0", "−8", "−4", "2", "no"],
    ]


def test_a_small_number_is_not_shown_as_none() -> None:
    frame = pd.DataFrame({"ratio": [2e-9, 0.25]})
    assert show("", frame, {})["rows"] == [["2.0e−09"], ["0.250"]]


def test_an_error_that_follows_the_intervals_is_not_shown_beside_them() -> None:
    row = {"estimate": 0.5, "low": 0.25, "high": 0.75, "low90": 0.3, "high90": 0.7, "se": 0.1, "tau": 0.25}
    shown = show("", pd.DataFrame([row]), {})
    assert (shown["columns"], shown["rows"]) == (["estimate", "tau"], [["0.500 [0.250, 0.750]", "0.25"]])


# --- contents --------------------------------------------------------------------------------------------------------


def test_each_figure_and_table_has_a_caption_and_figures_have_a_question() -> None:
    assert set(contents.FIGURES) == {*FIGURES, contents.OVERVIEW}
    asked = [name for question in contents.QUESTIONS for name in question.figures]
    assert sorted(asked) == sorted(FIGURES)
    assert {name for question in contents.QUESTIONS for name in question.tables} <= set(contents.TABLES)
    assert set(contents.IN_PRINT) | set(contents.REQUIRED) <= set(FIGURES)
    assert set(contents.TABLES_IN_PRINT) <= set(contents.TABLES)


def test_the_answer_stands_first_and_is_the_tables(tables: dict[str, pd.DataFrame]) -> None:
    page = pages.report(make_results(tables), all_stems())
    figure, table, *_ = page["lead"]
    assert figure["file"] == contents.OVERVIEW
    rows = {row[1]: row for row in table["rows"]}
    transfer = tables["transfer"].set_index("method")
    for method, name in (("sp_adamw", "SP · AdamW + cosine"), ("mup_schedulefree", "µP · ScheduleFree AdamW")):
        row = transfer.loc[method]
        shown = f"{number(row['drift'], 2, sign=True)} {interval(row['drift_low'], row['drift_high'], 2)}"
        assert rows[name][2] == shown
        widest = tables["regret"].query("method == @method and width == 128").iloc[0]
        assert rows[name][3].startswith(number(widest["regret_cf"]))
    runs = tables["rows"]
    assert rows["SP · AdamW + cosine"][5].endswith(f"of {(runs['method'] == 'sp_adamw').sum()}")
    assert f"Runs: {len(runs)}, diverged: {(runs['status'] == 'diverged').sum()}." in page["lead"][-1]["text"]


def test_the_page_has_every_figure_and_table_and_print_the_main_ones(full: dict[str, pd.DataFrame]) -> None:
    results = make_results(full)
    page, printed = (pages.report(results, all_stems(), printed=each) for each in (False, True))
    assert {block["file"] for block in blocks(page, "figure")} == all_stems()
    assert {block["file"].rpartition(".")[2] for block in blocks(printed, "figure")} == {
        contents.OVERVIEW,
        *contents.IN_PRINT,
    }
    captions = [block["caption"] for block in blocks(page, "table")]
    wanted = {name for question in contents.QUESTIONS for name in question.tables if not full[name].empty}
    assert len(wanted) > 10
    assert all(any(caption.startswith(contents.TABLES[name]) for caption in captions) for name in wanted)


def test_only_figures_that_are_there_are_shown(full: dict[str, pd.DataFrame]) -> None:
    page = pages.report(make_results(full), {f"{TASK}.loss_vs_lr"})
    assert [block["file"] for block in blocks(page, "figure")] == [f"{TASK}.loss_vs_lr"]


@pytest.mark.parametrize(
    ("settings", "make"),
    [({"seeds": 1}, make_study), ({"diverged": ["mup_schedulefree"]}, make_study), ({}, make_full_study)],
)
def test_no_cell_is_empty_or_a_raw_nan(settings: dict[str, Any], make: Any) -> None:
    page = pages.report(make_results(make(**SMALL, **settings)), all_stems())
    cells = [cell for block in blocks(page, "table") for row in block["rows"] for cell in row]
    assert len(cells) > 100
    assert not [cell for cell in cells if cell.strip() in ("", "nan", "None", "<NA>", "NaN")]


def test_unusual_splits_are_told_by_every_caption(tables: dict[str, pd.DataFrame]) -> None:
    results = make_results(tables)
    results.provenance["data"][0]["published_splits"] = {"train": "test", "valid": "valid"}
    page = pages.report(results, all_stems())
    (section,) = [section for section in page["sections"] if section["id"] == TASK]
    told = [block["caption"] for group in section["groups"] for block in group["blocks"] if "caption" in block]
    assert told
    assert all("Not the usual splits: trained on the published test split" in caption for caption in told)


def test_a_note_on_a_task_is_shown(tables: dict[str, pd.DataFrame]) -> None:
    results = make_results(tables)
    results.study["tasks"][TASK]["note"] = "It is small."
    said = [block["text"] for block in blocks(pages.report(results, set()), "text")]
    assert "It is small." in said


def test_data_without_a_manifest_are_an_error(tables: dict[str, pd.DataFrame]) -> None:
    results = make_results(tables)
    results.provenance["data"].clear()
    with pytest.raises(ValueError, match="no manifest of data set photo_patches"):
        pages.report(results, set())


# --- verdicts --------------------------------------------------------------------------------------------------------


def estimates(drift: float) -> pd.DataFrame:
    row = {"task": TASK, "subject": "mup_schedulefree", "width": np.nan, "statistic": "drift", "estimate": drift}
    ends = {"low": drift - 0.06, "high": drift + 0.06, "low90": drift - 0.04, "high90": drift + 0.04, "se": 0.02}
    return pd.DataFrame([row | ends | {"n_seeds": 5, "unit": "", "status": "ok", "reason": ""}])


def judged(tables: dict[str, pd.DataFrame], drift: float) -> Results:
    return make_results(tables, judge(estimates(drift), WRITTEN), hypotheses=WRITTEN, run_set="0")


def test_where_nothing_is_judged_no_verdict_is_shown(tables: dict[str, pd.DataFrame]) -> None:
    assert pages.verdicts(make_results(tables)) == []


@pytest.mark.parametrize(("drift", "word"), [(0.0, "supported"), (-1.0, "refuted"), (0.22, "inconclusive")])
def test_a_verdict_is_shown_with_the_numbers_that_decide(tables: dict[str, Any], drift: float, word: str) -> None:
    results = judged(tables, drift)
    (table,) = pages.verdicts(results)
    assert table["rows"] == [["C1", "It stays.", word, word, "open"]]
    (row,) = pages.conditions(results)["rows"]
    shown = [row[0], row[4], row[6], row[-1]]
    assert shown == [
        "C1",
        f"{number(drift, 2, True)} {interval(drift - 0.06, drift + 0.06, 2, True)}",
        "inside 0.25",
        word,
    ]


def test_the_supplement_has_all_of_all_studies(
    tables: dict[str, Any], full: dict[str, Any], drawn: Path, tmp_path: Path
) -> None:
    main = judged(full, 0.0)
    later = make_results(tables)
    later.study["name"] = "again"
    for name in ("madeup", "again"):
        shutil.copytree(drawn, tmp_path / name / "figures")
    shown = {f"{study}/figures/{stem}" for study in ("madeup", "again") for stem in all_stems()}
    page = pages.supplement([main, later], shown)
    assert {block["file"] for block in blocks(page, "figure")} == {
        s for s in shown if not s.endswith(contents.OVERVIEW)
    }
    cells = [cell for block in blocks(page, "table") for row in block["rows"] for cell in row]
    assert {"It stays.", "A margin.", "after"} <= set(cells)
    write_supplement([main, later], tmp_path, tmp_path / "supplement.pdf")
    assert (tmp_path / "supplement.pdf").read_bytes().startswith(b"%PDF")


# --- files -----------------------------------------------------------------------------------------------------------


def test_figures_that_plot_nothing_are_left_out(pictures: Path) -> None:
    assert available(pictures, [TASK]) == all_stems()
    (pictures / f"{TASK}.anytime.csv").write_text("a,b\n", encoding="utf-8")
    (pictures / f"{TASK}.averages.csv").write_text("\n", encoding="utf-8")
    (pictures / f"{TASK}.interaction.png").unlink()
    (pictures / f"{TASK}.dynamics.csv").unlink()
    left = {f"{TASK}.{name}" for name in ("anytime", "averages", "interaction")}
    assert available(pictures, [TASK]) == all_stems() - left


@pytest.mark.parametrize("name", contents.REQUIRED)
def test_a_required_figure_that_is_missing_is_named(pictures: Path, name: str) -> None:
    (pictures / f"{TASK}.{name}.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.png.*mufree figure"):
        available(pictures, [TASK])


def test_both_reports_twice_are_the_same_bytes(full: dict[str, Any], drawn: Path, tmp_path: Path) -> None:
    for turn in ("first", "second"):
        write(make_results(full), drawn, tmp_path / turn)
    for name in ("report.pdf", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_the_page_loads_nothing_and_escapes_everything(tables: dict[str, Any], pictures: Path) -> None:
    results = make_results(tables)
    results.study["title"] = "<script>alert(1)</script> & more"
    evil = json.dumps({"points": [[0.5, 0.5, "</script><b>\u2028"]]})
    (pictures / f"{TASK}.loss_vs_lr.points.json").write_text(evil, encoding="utf-8")
    html = to_html(pages.report(results, all_stems()), pictures)
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "</script><b>" not in html
    links = Links()
    links.feed(html)
    assert len(links.found) == len(all_stems())
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    data = re.findall(r'<script type="application/json">(.*?)</script>', html)
    assert json.loads(next(text for text in data if "b>" in text)) == json.loads(evil)


def test_words_of_a_study_are_no_code_in_print(tables: dict[str, Any], pictures: Path) -> None:
    """Each would stop Typst, or change what follows it, if it were read as such."""
    results = make_results(tables)
    pdfs = []
    for words in ("#panic()", "$x", "*bold", "@nothing", "<label> ```", "\\u{41} // comment"):
        results.study["title"] = results.study["tasks"][TASK]["description"] = words
        pdfs.append(to_pdf(pages.report(results, all_stems(), printed=True), pictures))
    assert len(set(pdfs)) == len(pdfs)


def test_pictures_get_lighter_and_stay_the_same_size(tmp_path: Path) -> None:
    import io

    from mufree.publish.report import _light

    Image.effect_noise((200, 100), 50).convert("RGB").save(tmp_path / "a.png")
    light = _light(tmp_path / "a.png")
    assert len(light) < (tmp_path / "a.png").stat().st_size
    assert Image.open(io.BytesIO(light)).size == (200, 100)
