"""Charts of the report as SVG text, drawn offline by altair and vl-convert."""

from collections.abc import Mapping, Sequence
from typing import Any

from aigq.evaluation.render import COLUMNS

PALETTE = (
    "#1b6ca8",
    "#c8553d",
    "#3d8b5f",
    "#8a5a9e",
    "#b8860b",
    "#4f6d7a",
    "#c2578f",
    "#6b7a1f",
    "#2a9d9d",
    "#777777",
)
DASHES = ([1, 0], [6, 3], [2, 2])
"""Beyond ten lines colours come again, with another dash."""

INK, MUTED, GRID = "#1c2733", "#5b6875", "#e3e8ed"
FONT = "Helvetica Neue, Helvetica, Arial, sans-serif"
ROW_HEIGHT = 26


def available() -> bool:
    """True when altair and vl-convert are installed (extra `train`)."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def bars(result: Mapping[str, Any], metric: str) -> str | None:
    """Horizontal bars of one metric with 95 % intervals; None when no row has the metric."""
    import altair as alt

    rows = [_point(row["system"], row[metric], row["ci95"].get(metric)) for row in result["rows"]]
    if all(row["value"] is None for row in rows):
        return None
    column = next(c for c in COLUMNS if c.key == metric)
    axis = alt.Axis(ticks=False, domain=False, title=None, labelLimit=160)
    y = alt.Y("system:N", sort=None, axis=axis)
    base = alt.Chart(alt.Data(values=rows)).encode(y=y)
    x = alt.X("value:Q", title=column.heading(result["k"]), axis=alt.Axis(tickCount=4))
    color = alt.condition(
        alt.datum.system == result["compare_to"], alt.value(PALETTE[0]), alt.value("#9db6c9")
    )
    bar = base.mark_bar(height=14, cornerRadiusEnd=2).encode(x=x, color=color)
    rule = base.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    chart = alt.layer(bar, rule).properties(width=190, height=ROW_HEIGHT * len(rows))
    return _svg(chart)


def curve(result: Mapping[str, Any]) -> str:
    """Query HR@K for every K up to the main one, a line per system."""
    import altair as alt

    points = [
        {"system": row["system"], "k": k, "value": value}
        for row in result["rows"]
        for k, value in enumerate(row["query_hr_curve"], start=1)
    ]
    color, dash = _color_and_dash([row["system"] for row in result["rows"]])
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=2.2, point=result["k"] == 1)
        .encode(
            x=alt.X("k:Q", title="K", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title="Query HR@K"),
            color=color,
            strokeDash=dash,
        )
        .properties(width=620, height=260)
    )
    return _svg(chart)


def slices(result: Mapping[str, Any]) -> str:
    """Query HR with intervals on cold and warm shoppers, repeated and novel queries, side by side."""
    import altair as alt

    points = []
    for row in result["rows"]:
        for name in ("cold", "warm"):
            part = row["slices"][name]
            label = f"{name} ({part['users']:,} users)"
            points.append(
                _point(row["system"], part["query_hr"], part["ci95"]["query_hr"]) | {"slice": label}
            )
        for name in ("repeat", "novel"):
            metric = f"{name}_query_hr"
            points.append(
                _point(row["system"], row[metric], row["ci95"][metric]) | {"slice": f"{name} queries"}
            )
    order = list(dict.fromkeys(point["slice"] for point in points))
    axis = alt.Axis(ticks=False, domain=False, title=None, grid=True, labelLimit=160)
    base = alt.Chart().encode(y=alt.Y("system:N", sort=None, axis=axis))
    rule = base.mark_rule(color=MUTED, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    x = alt.X(
        "value:Q", title=f"Query HR@{result['k']}", axis=alt.Axis(tickCount=4), scale=alt.Scale(zero=True)
    )
    dot = base.mark_circle(size=70, color=PALETTE[0], opacity=1).encode(x=x)
    header = alt.Header(title=None, labelFontSize=12, labelFontWeight="bold", labelColor=INK, labelFont=FONT)
    panel = alt.layer(rule, dot, data=alt.Data(values=points))
    chart = panel.properties(width=165, height=ROW_HEIGHT * len(result["rows"]))
    return _svg(chart.facet(column=alt.Column("slice:N", sort=order, header=header), spacing=24))


def lines(points: Sequence[Mapping[str, Any]], title: str, axis: str) -> str:
    """Curves of a training, one or several in a chart.

    Args:
        points: each `{"at": where on the axis, "value": how much, "line": of which curve}`.
        title: of the chart.
        axis: what `at` counts.
    """
    import altair as alt

    names = list(dict.fromkeys(point["line"] for point in points))
    legend = alt.Legend(title=None, orient="top", offset=6) if len(names) > 1 else None
    scale = alt.Scale(domain=names, range=list(PALETTE[: len(names)]))
    chart = (
        alt.Chart(alt.Data(values=list(points)), title=alt.Title(title, anchor="start", offset=8))
        .mark_line(strokeWidth=2, point=len(points) < 30 * len(names))
        .encode(
            x=alt.X("at:Q", title=axis, axis=alt.Axis(tickMinStep=1, tickCount=5)),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=4), scale=alt.Scale(zero=False)),
            color=alt.Color("line:N", sort=None, scale=scale, legend=legend),
        )
        .properties(width=190, height=120)
    )
    return _svg(chart)


def _point(system: str, value: float | None, ci: Sequence[float | None] | None) -> dict[str, Any]:
    low, high = ci or (None, None)
    return {"system": system, "value": value, "low": low, "high": high}


def _color_and_dash(systems: Sequence[str]) -> tuple[Any, Any]:
    """A look of its own for each of up to thirty lines, in one legend."""
    import altair as alt

    places = range(len(systems))
    colors = alt.Scale(domain=list(systems), range=[PALETTE[i % len(PALETTE)] for i in places])
    dashes = alt.Scale(domain=list(systems), range=[DASHES[i // len(PALETTE) % len(DASHES)] for i in places])
    legend = alt.Legend(title=None, symbolStrokeWidth=3, symbolSize=300, labelLimit=200, orient="right")
    color = alt.Color("system:N", sort=None, scale=colors, legend=legend)
    return color, alt.StrokeDash("system:N", sort=None, scale=dashes, legend=legend)


def _svg(chart: Any) -> str:
    import vl_convert

    axis = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titlePadding": 8,
    }
    config = {
        "font": FONT,
        "background": "transparent",
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"labelColor": INK, "labelFontSize": 12},
        "legend": {"labelColor": INK, "labelFontSize": 12},
        "title": {"color": INK, "fontSize": 12, "fontWeight": "normal"},
    }
    svg: str = vl_convert.vegalite_to_svg(chart.configure(**config).to_dict())
    return svg
