"""Width texts as mappers write them, and the width or the reason of each line of a layer."""

from __future__ import annotations

import geopandas
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LineLayer
from pipeline.labels.widths import left_out_reasons, line_widths_m, parse_lanes, parse_width_m


@pytest.mark.parametrize(
    ("text", "width_m"),
    [
        ("3.5", 3.5),
        ("3,5", 3.5),
        (" 7 ", 7.0),
        (".5", 0.5),
        ("2 m", 2.0),
        ("2m", 2.0),
        ("2 meters", 2.0),
        ("1 Metre", 1.0),
        ("350 cm", 3.5),
        ("12'", 3.6576),
        ("6'6\"", 1.9812),
        ("6' 6''", 1.9812),
        ("6′ 6″", 1.9812),
        ('30"', 0.762),
        ("3 ft", 0.9144),
        ("10 feet", 3.048),
        ("200", 200.0),
        ("3.5m", 3.5),
        ("3,5m", 3.5),
        ("3.5 m.", 3.5),
        ("4 M", 4.0),
        ("3.5\u00a0m", 3.5),
        ("\u00a03.5\u202f", 3.5),
        ("\t6 metres\n", 6.0),
        ("8'", 2.4384),
        ("8’ 6”", 2.5908),
        ("3.0", 3.0),
        ("05", 5.0),
    ],
)
def test_widths_are_read(text, width_m):
    assert parse_width_m(text) == pytest.approx(width_m, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wide",
        "2-3",
        "2;3",
        "~3",
        "3 lanes",
        "-4",
        "0",
        "0 m",
        "201",
        "1e3",
        "2 km",
        "3-4",
        "3 - 4",
        "3;4",
        "3,5;4",
        "2 x 3.5",
        "2x3.5",
        ">3",
        "<2",
        "+3",
        "ca. 3",
        "≈3",
        "narrow",
        "variable",
        "3.5 m wide",
        "3.5 / 4",
        "3m4",
        "3..5",
        "3,",
        "1.000,5",
        "2 yd",
        "3.5\u200b",
        "yes",
        "?",
        "m",
        "'",
        "1.2.3",
        "nan",
        "inf",
    ],
)
def test_junk_is_none(text):
    assert parse_width_m(text) is None


@pytest.mark.parametrize("value", [None, float("nan"), 3.5])
def test_what_is_no_text_is_none(value):
    assert parse_width_m(value) is None


@given(st.one_of(st.text(max_size=12), st.text("0123456789.,'\" mftce-", max_size=8)))
def test_any_text_gives_none_or_a_possible_width(text):
    width = parse_width_m(text)
    assert width is None or 0 < width <= 200


@pytest.mark.parametrize(
    ("text", "lanes"),
    [
        ("2", 2),
        (" 2 ", 2),
        ("1.5", 1.5),
        ("1,5", 1.5),
        *((text, None) for text in ("0", "2;3", "2-3", "99", "", "two", 2, None)),
    ],
)
def test_lanes(text, lanes):
    assert parse_lanes(text) == lanes


def table(kind, rows):
    columns = [kind, "width", "lanes", "tracktype", "tunnel", "area"]
    return geopandas.GeoDataFrame(pd.DataFrame([{**dict.fromkeys(columns), **row} for row in rows], columns=columns))


ROADS = {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"primary": 9, "track": 3.5}}


def test_width_tag_then_lanes_then_default():
    frame = table(
        "highway",
        [
            {"highway": "primary", "width": "12", "lanes": "2"},
            {"highway": "primary", "width": "wide", "lanes": "3"},
            {"highway": "primary", "width": "500", "lanes": "many"},
            {"highway": "track"},
        ],
    )
    widths = line_widths_m(frame, LineLayer.model_validate({**ROADS, "lane_m": 3.25}))
    np.testing.assert_allclose(widths, [12, 9.75, 9, 3.5])
    np.testing.assert_allclose(line_widths_m(frame, LineLayer.model_validate(ROADS)), [12, 9, 9, 3.5])
    plain = LineLayer.model_validate({**ROADS, "use_width_tag": False})
    np.testing.assert_allclose(line_widths_m(frame, plain), [9, 9, 9, 3.5])


def test_lanes_make_no_road_wider_than_a_width_tag_may():
    """What is read around a shard reaches as far as the widest line."""
    frame = table("highway", [{"highway": "primary", "lanes": "20"}])
    np.testing.assert_array_equal(line_widths_m(frame, LineLayer.model_validate({**ROADS, "lane_m": 12})), [200])


def test_lines_left_out_and_why():
    frame = table(
        "highway",
        [
            {"highway": "primary"},
            {"highway": "footway"},
            {"highway": "track", "tracktype": "grade2"},
            {"highway": "track", "tracktype": "grade5"},
            {"highway": "track"},
            {"highway": "primary", "tracktype": "grade5"},
            {"highway": "primary", "tunnel": "yes", "width": "9"},
            {"highway": "primary", "tunnel": "building_passage"},
            {"highway": "primary", "tunnel": "no"},
            {"highway": "primary", "area": "yes"},
            {"highway": "primary", "area": "no"},
        ],
    )
    layer = LineLayer.model_validate({**ROADS, "grades": ["grade1", "grade2"]})
    grade, value = "tracktype not in grades", "value not in widths_m"
    expected = ["", value, "", grade, grade, "", "tunnel", "tunnel", "", "area", ""]
    assert left_out_reasons(frame, layer).tolist() == expected
    np.testing.assert_array_equal(np.isnan(line_widths_m(frame, layer)), [reason != "" for reason in expected])
    anything = LineLayer.model_validate(ROADS)
    assert left_out_reasons(frame, anything)[[3, 4]].tolist() == ["", ""]


def test_waterway_culverts_are_left_out():
    frame = table("waterway", [{"waterway": "stream"}, {"waterway": "stream", "tunnel": "culvert"}])
    layer = LineLayer.model_validate({**ROADS, "layer": "waterways", "widths_m": {"stream": 2}})
    assert left_out_reasons(frame, layer).tolist() == ["", "tunnel"]
    np.testing.assert_array_equal(line_widths_m(frame, layer), [2, np.nan])


def test_empty_table():
    frame = table("highway", [])
    assert line_widths_m(frame, LineLayer.model_validate(ROADS)).shape == (0,)


def test_what_a_width_tag_cannot_say_falls_back_to_lanes_and_default():
    rows = [
        {"highway": "primary", "width": text, "lanes": lanes}
        for text in ("~3", "3-4", "narrow")
        for lanes in ("2", "?")
    ]
    widths = line_widths_m(table("highway", rows), LineLayer.model_validate({**ROADS, "lane_m": 3.5}))
    np.testing.assert_allclose(widths, [7, 9] * 3)


def test_tags_filter_and_railways():
    layer = LineLayer.model_validate(
        {
            **ROADS,
            "layer": "railways",
            "widths_m": {"rail": 5},
            "tags": {"usage": ["main", "branch"], "electrified": ["rail"]},
        }
    )
    frame = table("railway", [{"railway": "rail"}] * 5 + [{"railway": "tram"}])
    frame["tags"] = [
        '{"usage": "main"}',
        '{"usage": "industrial"}',
        "{}",
        '{"electrified": "rail"}',
        '{"usage": ["x"]}',
        "{}",
    ]
    expected = ["", "other tags", "other tags", "", "other tags", "value not in widths_m"]
    assert left_out_reasons(frame, layer).tolist() == expected
    np.testing.assert_array_equal(line_widths_m(frame, layer), [5, np.nan, np.nan, 5, np.nan, np.nan])
