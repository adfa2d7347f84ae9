import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic_study import METHODS, make_description, make_full_study, make_study

from mufree.publish.figures import FIGURES, save
from mufree.publish.report import to_html, write
from mufree.publish.report.captions import FIGURE_CAPTIONS, REQUIRED
from mufree.publish.report.document import document
from mufree.publish.report.questions import QUESTIONS
from mufree.publish.report.words import (
    flag_words,
    grouped,
    interval,
    known,
    listing,
    number,
    percent,
    plus_minus,
    span,
    verdict,
)

TASK = "patches-mlp"
SMALL = {"tasks": (TASK,), "widths": (32, 64, 128), "log2_lrs": tuple(range(-13, -5))}


def from_csv(tables):
    tables = {name: table for name, table in tables.items() if name not in ("rows", "curves", "verdicts")}
    return {name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in tables.items()}


def content(tables, **given):
    study, summary, provenance = make_description(tables)
    summary["n_runs"] = len(tables["rows"])
    return document(study, from_csv(tables), summary, provenance, tables["rows"], **given)


def strings(value):
    if isinstance(value, dict):
        return [s for inner in value.values() for s in strings(inner)]
    if isinstance(value, list):
        return [s for inner in value for s in strings(inner)]
    return [value] if isinstance(value, str) else []


def points(doc, lead):
    """The sentences under a question, of all tasks."""
    blocks = [b for section in doc["sections"] for b in section["blocks"] if b["kind"] == "points"]
    return [item for block in blocks if lead in block["lead"] for item in block["items"]]


def section(doc, key):
    (found,) = [s for s in doc["sections"] if s["id"] == key]
    return found["blocks"]


def change(tables, table, where, **values):
    """The tables, with some values of the rows where `where` holds replaced."""
    changed = tables[table].copy()
    chosen = changed.query(where).index
    assert len(chosen)
    for column, value in values.items():
        if column in ("equivalent", "good"):
            changed[column] = changed[column].astype(object)
        changed.loc[chosen, column] = value
    return tables | {table: changed}


@pytest.fixture(scope="module")
def tables():
    return make_study(**SMALL)


@pytest.fixture(scope="module")
def full():
    return make_full_study(tasks=(TASK,), widths=(32, 64, 128), log2_lrs=tuple(range(-13, -5)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with stand-ins for the figures of both tasks, as the layout takes any picture."""
    folder = tmp_path_factory.mktemp("figures")
    for task in (TASK, "wiki-gpt"):
        for name in FIGURES:
            save(Figure(figsize=(2, 1)), pd.DataFrame({"a": [1]}), folder / f"{task}.{name}")
    return folder


def test_numbers_are_rounded_as_a_person_reads_them():
    assert number(-0.0004) == "0.000"
    assert number(-1.25, 1) == "−1.2"
    assert number(0.5, 2, sign=True) == "+0.50"
    assert number(np.nan) == number(None) == number(pd.NA) == "—"
    assert number(np.int64(-9), 0) == "−9"
    assert interval(-1.0, 0.25, 2, sign=True) == "[−1.00, +0.25]"
    assert interval(np.nan, 1.0) == "—"
    assert plus_minus(1.0, np.nan) == "1.000 ± —"
    assert percent(0.1234) == "12.3 %"
    assert span([3, 1, 2, 1]) == "1, 2, 3"
    assert span(range(-14, -5)) == "−14 to −6, 9 values"


def test_cells_of_a_file_mean_what_they_say():
    assert [verdict(v) for v in (True, "True", np.bool_(False), "False")] == [True, True, False, False]
    assert [verdict(v) for v in (np.nan, None, pd.NA, "")] == [None] * 4
    assert not known("1.0")


def test_every_figure_has_a_caption_and_a_question():
    assert set(FIGURE_CAPTIONS) == set(FIGURES)
    places = [name for question in QUESTIONS for name in question.figures]
    assert sorted(places) == sorted(FIGURES)
    assert set(REQUIRED) <= set(FIGURES)


@pytest.mark.parametrize("drift", [-0.73, 0.41])
def test_drift_is_the_tables(tables, drift):
    changed = change(
        tables, "transfer", "method == 'sp_adamw'", drift=drift, drift_low=drift - 0.2, drift_high=drift + 0.31
    )
    sentence = points(content(changed), "drift with width")[0]
    wanted = (
        f"b = {drift:+.2f} doublings per doubling of width, 95 % interval [{drift - 0.2:+.2f}, {drift + 0.31:+.2f}]"
    )
    assert wanted.replace("-", "−") in sentence
    assert "it drifts" in sentence


@pytest.mark.parametrize(
    ("low", "high", "equivalent", "words"),
    [
        (-0.1, 0.1, True, "no drift beyond ±0.25"),
        (0.05, 0.2, True, "not zero, yet inside ±0.25"),
        (-1.2, -0.8, False, "it drifts"),
        (-0.9, 0.9, False, "undecided"),
        (np.nan, np.nan, np.nan, "nothing is decided"),
    ],
)
def test_drift_is_worded_as_the_intervals_decide(tables, low, high, equivalent, words):
    changed = change(
        tables, "transfer", "method == 'mup_adamw'", drift=0.1, drift_low=low, drift_high=high, equivalent=equivalent
    )
    assert words in points(content(changed), "drift with width")[2]


def test_a_drift_that_is_not_estimable_gives_its_reason(tables):
    changed = change(
        tables, "transfer", "method == 'mup_adamw'", drift=np.nan, status="not_estimable", reason="2 of 3 widths"
    )
    doc = content(changed)
    assert points(doc, "drift with width")[2] == "µP · AdamW + cosine: not estimable: 2 of 3 widths."
    assert "has no estimable drift in 1" in doc["sections"][0]["blocks"][0]["text"]


def test_regret_is_the_tables(tables):
    where = "method == 'mup_schedulefree' and width == 128"
    values = {"regret_cf": 0.0123, "regret_cf_low": 0.0045, "regret_cf_high": 0.0201}
    large = points(content(change(tables, "regret", where, good=False, **values)), "What does it cost")[3]
    small = points(content(change(tables, "regret", where, good=True, **values)), "What does it cost")[3]
    for sentence in (large, small):
        assert "0.012 nats, 95 % interval [0.004, 0.020]" in sentence
    assert "a cost" in large
    assert "small" in small
    flagged = points(content(change(tables, "regret", where, flag="diverged", **values)), "What does it cost")[3]
    assert "counts as the loss at initialisation" in flagged


def test_the_best_method_follows_the_losses(tables):
    changed = change(
        tables, "optima", "method == 'sp_schedulefree' and width == 128", best_loss=0.5, best_loss_se=0.001
    )
    (sentence,) = points(content(changed), "best at width 128")
    assert sentence.startswith("SP · ScheduleFree AdamW, with a validation loss of 0.500 ± 0.001")
    assert "more than two standard errors" in sentence
    (doubtful,) = points(content(change(changed, "optima", "width == 128", best_loss_se=1.0)), "best at width 128")
    assert "less than two standard errors" in doubtful


def test_diverged_runs_are_counted(tables):
    diverged = (tables["rows"]["status"] == "diverged").sum()
    (sentence,) = points(content(tables), "What diverged")
    assert sentence.startswith(f"{diverged} of {len(tables['rows'])} runs: ")


def test_the_negative_control_may_fail(tables):
    assert "yes, bit for bit the same losses in 24 of 24" in points(content(tables), "Negative control")[0]
    broken = change(tables, "control", "optimizer == 'sp_adamw=mup_adamw'", n_equal=23)
    assert "NO, the same losses in only 23 of 24" in points(content(broken), "Negative control")[0]
    missing = tables | {"control": tables["control"].iloc[:0]}
    assert points(content(missing), "Negative control")[0].startswith("Not checked")


def test_the_coordinate_check_reads_both_ways(tables):
    sentences = points(content(tables), "Coordinate check")
    assert sentences[0].endswith("as SP should.")
    assert "passes at x" in sentences[2]
    assert "doubt" not in sentences[2]
    turned = tables["coordcheck_verdict"].assign(passed=~tables["coordcheck_verdict"]["passed"], n_sure=1)
    sentences = points(content(tables | {"coordcheck_verdict": turned}), "Coordinate check")
    assert "does not tell µP from SP" in sentences[0]
    assert "in doubt" in sentences[2]
    unsure = tables | {"coordcheck_verdict": turned.assign(n_sure=0)}
    sentences = points(content(unsure), "Coordinate check")
    assert "too few to decide" in sentences[2]
    assert "in doubt" not in sentences[2]
    (block,) = [b for b in section(content(unsure), "summary") if b["kind"] == "points"]
    assert "not decided for µP · AdamW + cosine" in " ".join(block["items"])


def test_one_seed_is_said_to_decide_nothing():
    doc = content(make_study(**SMALL | {"seeds": 1}))
    assert all("without an interval (one seed)" in s for s in points(doc, "drift with width"))
    assert all("same seeds" in s and "biased upward" in s for s in points(doc, "What does it cost"))
    assert "the order may be chance" in points(doc, "best at width")[0]
    captions = {b["file"]: b["caption"] for s in doc["sections"] for b in s["blocks"] if b["kind"] == "figure"}
    assert {f"{TASK}.{name}" for name in REQUIRED} <= set(captions)
    for file, caption in captions.items():
        figure = file.partition(".")[2]
        of_seeds = figure in ("coordcheck", "dynamics", "validation_curves")
        assert ("one seed, so there are no intervals" in caption) != of_seeds
        # the coordinate check has seeds, widths and a rate of its own
        assert (", 5 seeds." in caption) == (figure == "coordcheck")
        assert ("; 1 seed." in caption) == (figure in ("dynamics", "validation_curves"))
    assert "Where there is one seed there is no interval" in doc["sections"][0]["blocks"][0]["text"]


def test_a_study_in_which_all_diverged_says_so():
    doc = content(make_study(**SMALL | {"diverged": METHODS}))
    assert all("not estimable" in s for s in points(doc, "drift with width"))
    assert all("not estimable" in s for s in points(doc, "What does it cost"))
    assert "every run at width 128 diverged" in points(doc, "best at width")[0]
    assert points(doc, "What diverged")[0].startswith("All ")
    assert any("no test result, since every run" in s for s in strings(doc))


@pytest.mark.parametrize("make", [make_study, make_full_study])
@pytest.mark.parametrize("settings", [{}, {"seeds": 1}, {"diverged": ("sp_adamw",)}, {"widths": (32,)}])
def test_no_cell_is_empty_or_a_raw_nan(settings, make):
    doc = content(make(**SMALL | settings))
    for text in strings(doc):
        assert not re.search(r"\b(nan|NaT|inf)\b|<NA>|None$", text), text
    for block in [b for section in doc["sections"] for b in section["blocks"] if b["kind"] == "table"]:
        cells = [cell for row in block["rows"] for cell in row]
        assert all(cells)
        assert any("—" in cell for cell in cells) == any(note.startswith("—:") for note in block["notes"])


def test_unusual_splits_are_told_by_every_table_and_figure(tables):
    study, summary, provenance = make_description(tables)
    caveat = (
        "Not the usual splits: trained on the published test split and validated on the published valid split; "
        "there is no test split."
    )
    for splits, told in (({"train": "test", "valid": "valid"}, True), ({"train": "train", "test": "test"}, False)):
        provenance["data"][0]["published_splits"] = splits
        doc = document(study, from_csv(tables), summary, provenance)
        keys = [question.key for question in QUESTIONS]
        blocks = [
            b for s in doc["sections"] if s["id"] in keys for b in s["blocks"] if b["kind"] in ("table", "figure")
        ]
        assert {b["file"] for b in blocks if "file" in b} >= {f"{TASK}.{name}" for name in REQUIRED}
        assert all((caveat in b["caption"]) == told for b in blocks)
        assert any(caveat in s for s in strings(section(doc, "setting"))) == told


def test_tables_of_other_runs_are_refused(tables):
    study, summary, provenance = make_description(tables)
    with pytest.raises(ValueError, match=r"the tables have 288 runs and summary.json 289"):
        document(study, from_csv(tables), summary | {"n_runs": 289}, provenance)
    with pytest.raises(ValueError, match="no manifest of data set photo_patches"):
        document(study, from_csv(tables), summary, provenance | {"data": []})


class Loads(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self):
        super().__init__()
        self.sources, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "srcset", "href", "data", "action") and v]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_loads_nothing_and_escapes_everything(tables, pictures):
    doc = content(tables) | {"title": "<script>alert(1)</script>"}
    page = to_html(doc, pictures)
    reader = Loads()
    reader.feed(page)
    files = [b["file"] for s in doc["sections"] for b in s["blocks"] if b["kind"] == "figure"]
    assert len([s for s in reader.sources if s.startswith("data:image/png;base64,")]) == len(files) == len(set(files))
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in reader.sources)
    assert "url(" not in page
    assert "@import" not in page
    assert page.count("<script") == 1  # the one that sorts; plotly comes only with plots
    assert "<script>alert" not in page
    text = " ".join("".join(reader.text).split())
    for sentence in points(doc, "drift with width"):
        assert sentence in text


def test_both_reports_twice_are_the_same_bytes(pictures, tmp_path, caplog):
    tables = make_study(widths=(32, 64), log2_lrs=(-10, -9, -8))
    study, summary, provenance = make_description(tables)
    for turn in ("first", "second"):
        write(study, from_csv(tables), summary, provenance, pictures, tmp_path / turn)
    for name in ("report.pdf", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert (tmp_path / "first" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert not caplog.records  # Typst had nothing to warn of


FACTOR_TABLES = {
    "schedule": ("anytime", "horizon", "premium", "smoothness"),
    "cost": ("cost", "best_of_k"),
    "interaction": ("interaction",),
    "weight_decay": ("weight_decay", "weight_decay_optimum"),
}


@pytest.mark.parametrize(("key", "names"), FACTOR_TABLES.items())
@pytest.mark.parametrize("empty", [True, False])
def test_a_question_without_data_is_named_and_left_out(full, key, names, empty):
    study, summary, provenance = make_description(full)
    given = from_csv(full)
    kept = {
        name: (frame.iloc[:0] if name in names else frame)
        for name, frame in given.items()
        if empty or name not in names
    }
    summary["n_runs"] = len(full["rows"])
    doc = document(study, kept, summary, provenance, full["rows"])
    (question,) = [q for q in QUESTIONS if q.key == key]
    ids = [s["id"] for s in doc["sections"]]
    assert [q.key.replace("_", "-") for q in QUESTIONS if q.key != key] == ids[2:-2]
    (line,) = [b["text"] for b in section(doc, "reading") if b["kind"] == "text"]
    assert line == f"Not asked by this study: {question.title}"


def test_a_full_study_answers_every_question_for_each_task(full):
    doc = content(full)
    assert not [b for b in section(doc, "reading") if b["kind"] == "text"]
    for question in QUESTIONS:
        blocks = section(doc, question.key.replace("_", "-"))
        assert len([b for b in blocks if b["kind"] == "heading"]) == 1
        assert [b["file"] for b in blocks if b["kind"] == "figure"] == [f"{TASK}.{name}" for name in question.figures]
        assert [b for b in blocks if b["kind"] == "points" and b["lead"] == "Limits"]


def test_only_figures_that_are_there_are_shown(full):
    doc = content(full, figures={f"{TASK}.anytime"})
    assert [b["file"] for s in doc["sections"] for b in s["blocks"] if b["kind"] == "figure"] == [f"{TASK}.anytime"]


def test_what_a_method_is_there_for_is_read_from_its_settings(full):
    renamed = {
        name: t.replace({"method": {"mup_adamw_ema": "mine"}}) if "method" in t else t for name, t in full.items()
    }
    rows = {
        r[0]: r
        for b in section(content(renamed), "setting")
        if b.get("columns", [""])[0] == "Method"
        for r in b["rows"]
    }
    assert rows["µP · AdamW + cosine"][-1] == "one of the four compared"
    assert rows["µP · AdamW + cosine + EMA"][-1] == "control: averaging without ScheduleFree, cosine to zero"
    assert rows["SP · AdamW, embedding rate × width"][-1].startswith("control: SP whose embedding")
    assert rows["SP · SGD + cosine"][-1] == "further optimizer"


def test_a_method_that_nothing_defines_is_an_error(full):
    study, summary, provenance = make_description(full)
    with pytest.raises(ValueError, match="is in the tables but not in the study"):
        document(study, from_csv(full), summary, provenance)


def test_cells_beyond_the_primary_ones_are_listed(full):
    (table,) = [b for b in section(content(full), "setting") if b.get("columns", ["", ""])[1] == "What differs"]
    rows = full["rows"]
    assert sum(int(row[5]) for row in table["rows"]) == rows["variant"].ne("").sum()
    assert any(row[1] == "T/2; T/4" for row in table["rows"])
    assert any("weight_decay=0.05, independent" in row[1] for row in table["rows"])


@pytest.mark.parametrize("place", ["task", "dataset"])
def test_a_note_on_the_data_is_shown_in_words(tables, place):
    study, summary, provenance = make_description(tables)
    entry = study["tasks"][TASK]
    target = entry if place == "task" else entry["dataset"]
    target["note"] = "the pictures are scaled"
    doc = document(study, from_csv(tables), summary, provenance)
    assert points(doc, "To know of the data") == [f"{entry['description']}: The pictures are scaled."]


def test_the_summary_answers_from_the_tables_where_there_are_no_verdicts(tables):
    changed = change(
        tables, "regret", "method == 'sp_adamw' and width == 128", regret_cf=0.321, good=False, regret_cf_low=0.3
    )
    (block,) = [b for b in section(content(changed), "summary") if b["kind"] == "points"]
    said = " ".join(block["items"])
    drifts = tables["transfer"].set_index("method")["drift"]
    assert f"SP · AdamW + cosine (b = {number(drifts['sp_adamw'], 2, sign=True)}, 95 % interval" in said
    assert "Using the rate of width 32 at width 128 costs something in SP · AdamW + cosine (0.321 nats" in said
    assert "Coordinate check: passed by µP · AdamW + cosine and µP · ScheduleFree AdamW" in said
    assert "bit for bit the same losses in 48 of 48 pairs" in said


def test_methods_of_which_the_same_is_lacking_are_named_together():
    said = [("A", "not estimable: two widths."), ("B", "b = 0"), ("C", "not estimable: two widths."), ("D", "b = 0")]
    assert grouped(said) == ["A and C: not estimable: two widths.", "B: b = 0", "D: b = 0"]
    assert listing(["a", "b, c", "d"]) == "a; b, c; d"
    assert flag_words(np.nan) == ""


def test_provenance_is_told_in_lines(tables):
    study, summary, provenance = make_description(tables)
    provenance["environment"] = {"cores": 2, "packages": {"torch": "2.14.1", "mup": None}}
    provenance["data"][0] |= {"inputs": {"a.png": {"sha256": "00"}}, "bytes_per_token": {"train": 1.23456789}}
    section = document(study, from_csv(tables), summary, provenance)["sections"][-1]
    lines = dict(section["blocks"][0]["rows"])
    assert lines["environment · packages"] == "torch 2.14.1, mup —"
    assert lines["data · photo patches · bytes per token"] == "train 1.235"
    assert lines["data · photo patches · digest"] == "0123456789abcdef" * 4
    assert not any("inputs" in key for key in lines)
