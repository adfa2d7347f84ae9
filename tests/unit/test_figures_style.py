import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from synthetic_study import METHODS, MORE_METHODS, make_study, role

from mufree.publish.figures import draw
from mufree.publish.figures.panels import PAGE_WIDTH, empty_figure, interval_bars, method_handles, new_figure
from mufree.publish.figures.style import (
    DISPLAY_NAMES,
    MAIN_METHODS,
    Role,
    display_names,
    left_out,
    main_methods,
    method_styles,
    role_name,
)

NAMES = {
    "mup_adamw_wsd": "µP · AdamW + WSD",
    "mup_adamw_constant": "µP · AdamW + constant",
    "mup_adamw_constant_ema": "µP · AdamW + constant + EMA",
    "mup_adamw_ema": "µP · AdamW + cosine + EMA",
    "sp_adamw_embedding": "SP · AdamW, embedding rate × width",
    "sp_sgd": "SP · SGD + cosine",
    "sp_sgd_schedulefree": "SP · ScheduleFree SGD",
    "mup_radam_schedulefree": "µP · ScheduleFree RAdam",
    "sp_schedulefree_embedding": "SP · ScheduleFree AdamW, embedding rate × width",
}


def roles(**named):
    return pd.DataFrame([{"method": method} | columns for method, columns in named.items()])


def test_of_a_method_without_a_role_the_name_is_shown():
    assert (
        method_styles([*DISPLAY_NAMES, "MuAdamW_ScheduleFree"])["MuAdamW_ScheduleFree"].name == "MuAdamW ScheduleFree"
    )
    assert {m: look.name for m, look in method_styles(DISPLAY_NAMES).items()} == DISPLAY_NAMES


def test_a_role_and_a_telling_name_give_the_same_words():
    rows = roles(**{method: role(method) for method in (*METHODS, *NAMES)})
    assert display_names(rows) == DISPLAY_NAMES | NAMES
    assert DISPLAY_NAMES == {
        "sp_adamw": "SP · AdamW + cosine",
        "sp_schedulefree": "SP · ScheduleFree AdamW",
        "mup_adamw": "µP · AdamW + cosine",
        "mup_schedulefree": "µP · ScheduleFree AdamW",
    }


def test_the_columns_decide_and_not_the_name():
    misleading = role("sp_sgd")
    assert display_names(roles(mup_adamw_wsd=misleading)) == {"mup_adamw_wsd": "SP · SGD + cosine"}
    assert (
        method_styles(["mup_adamw_wsd"], roles(mup_adamw_wsd=misleading))["mup_adamw_wsd"].name == "SP · SGD + cosine"
    )
    assert role_name(Role("mup", "lion", "linear")) == "µP · lion + linear"


def test_two_methods_of_one_role_have_different_names():
    rows = roles(mup_schedulefree=role("mup_schedulefree"), mup_schedulefree_b=role("mup_schedulefree"))
    names = display_names(rows)
    assert names["mup_schedulefree_b"] == "µP · ScheduleFree AdamW (mup_schedulefree_b)"
    assert names["mup_schedulefree"] == "µP · ScheduleFree AdamW"


def test_rows_without_roles_give_no_names():
    assert display_names(pd.DataFrame({"method": ["a"]})) == {}
    assert display_names(pd.DataFrame()) == {}


def test_methods_keep_apart_however_many_there_are():
    looks = list(method_styles([*METHODS, *(f"other{i:02}" for i in range(40))]).values())
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    first = looks[:12]
    assert len({look.colour for look in first}) == len({look.marker for look in first}) == 12


def test_the_four_look_the_same_in_every_company():
    alone = method_styles(METHODS)
    among_others = method_styles((*METHODS, *MORE_METHODS))
    assert alone == {method: among_others[method] for method in METHODS}


def test_a_crowd_leaves_the_four_and_says_so():
    few = [*METHODS, "a", "b"]
    assert len(few) == MAIN_METHODS
    assert main_methods(few) == (few, [])
    assert main_methods([*few, "c"]) == (list(METHODS), ["a", "b", "c"])
    assert main_methods([f"m{i}" for i in range(8)]) == (["m0", "m1", "m2", "m3"], ["m4", "m5", "m6", "m7"])
    styles = method_styles([*few, "c"])
    assert left_out(styles, ["a", "c"], "why") == "Not shown (why): a; c."
    assert left_out(styles, []) == ""


def test_a_long_title_stays_on_the_canvas():
    figure = new_figure("GPT with 2 blocks on WikiText-2 (trained on its test split) " * 2, 2)
    assert figure.get_size_inches()[0] == PAGE_WIDTH
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.x1 <= figure.get_size_inches()[0]
    assert empty_figure("t", "why " * 30).get_size_inches()[0] == figure.get_size_inches()[0]


def test_a_legend_reads_by_rows():
    styles = method_styles(list("abcde"))
    handles = method_handles(styles, list("abcde"), 3)
    # matplotlib fills columns of two, two and one
    assert [handle.get_label() for handle in handles] == ["a", "d", "b", "e", "c"]


def test_horizontal_intervals_end_at_the_frame_with_a_caret():
    ax = new_figure("t", 2).add_subplot()
    ax.set_xlim(-1, 1)
    interval_bars(ax, [0, 1, 2], [-50.0, 0.0, np.nan], [60.0, 0.5, np.nan], "k", across=True)
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert [tuple(bar.get_xdata()) for bar in bars] == [(-1, 1), (0.0, 0.5)]
    assert [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1] == [8, 9]


def test_an_extra_method_is_named_by_its_role_in_a_figure():
    tables = make_study(tasks=("patches-mlp",), methods=("sp_adamw", "custom"), widths=(32, 64), log2_lrs=(-10, -9, -8))
    rows = tables["rows"]
    rows.loc[rows["method"].eq("custom"), ["parametrization", "optimizer", "schedule"]] = ["mup", "sgd", "wsd"]
    figure, _ = draw("regret_vs_width", tables, "patches-mlp", "t")
    assert "µP\nSGD + WSD" in [ax.get_title(loc="left") for ax in figure.axes]
    assert {to_hex(ax._left_title.get_color()) for ax in figure.axes} == {"#d55e00", "#cc79a7"}
