"""The columns of a layer go in, its style for QGIS comes out: colours, a form, and what fills itself in.

Reference: QGIS's own QML, which has no other specification; tried with 3.22.
"""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

NO_VALUE = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"
"""What QGIS writes for NULL in a list of values."""
COLOURS: Mapping[str, tuple[str, str, str]] = {
    "": ("no verdict yet", "255,176,0,60", "255,176,0,255"),
    "accept": ("accepted", "27,158,119,90", "27,158,119,255"),
    "reject": ("rejected", "120,120,120,40", "120,120,120,255"),
    "redrawn": ("redrawn", "117,112,179,90", "117,112,179,255"),
    "added": ("added", "231,41,138,90", "231,41,138,255"),
}
"""Label, fill and outline of each verdict, as red, green, blue and opacity."""
OUTLINE_MM = "0.5"
EDITOR = "coalesce(nullif(@user_full_name, ''), @user_account_name)"
"""An expression of QGIS: who sits at the machine."""


def verdict_style(columns: Sequence[str], *, open_columns: Sequence[str], hidden: Sequence[str]) -> str:
    """The QML of a layer of landslides to judge.

    Args:
        columns: All of the layer but its geometry and its number.
        open_columns: Those that a mapper fills in; others can be read only.
        hidden: Those that the form does not show.
    """
    root = Element("qgis", version="3.34.0", styleCategories="Symbology|Fields|Forms")
    _add_colours(root)
    fields = SubElement(root, "fieldConfiguration")
    for name in columns:
        widget = SubElement(SubElement(fields, "field", name=name, configurationFlags="None"), "editWidget")
        config = SubElement(widget, "config")
        if name == "verdict":
            widget.set("type", "ValueMap")
            _add_options(config, {"map": [{label: key or NO_VALUE} for key, (label, *_) in COLOURS.items()]})
        else:
            widget.set("type", "Hidden" if name in hidden else "TextEdit")
            _add_options(config, {"IsMultiline": "true" if name == "note" else "false"})
    defaults = SubElement(root, "defaults")
    SubElement(defaults, "default", field="editor", expression=EDITOR, applyOnUpdate="1")
    editable = SubElement(root, "editable")
    for name in columns:
        SubElement(editable, "field", name=name, editable="1" if name in open_columns else "0")
    text = ElementTree.tostring(root, encoding="unicode")
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{text}"


def _add_colours(root: Element) -> None:
    renderer = SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="verdict", symbollevels="0", enableorderby="0"
    )
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for number, (value, (label, fill, outline)) in enumerate(COLOURS.items()):
        # QGIS takes an empty value for all others, missing ones too.
        SubElement(
            categories, "category", value=value, symbol=str(number), label=label, render="true",
            type="string" if value else "NULL",
        )  # fmt: skip
        symbol = SubElement(symbols, "symbol", name=str(number), type="fill", alpha="1", clip_to_extent="1")
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
        options = {
            "color": fill,
            "style": "b_diagonal" if value == "reject" else "solid",
            "outline_color": outline,
            "outline_style": "dash" if value == "reject" else "solid",
            "outline_width": OUTLINE_MM,
            "outline_width_unit": "MM",
        }
        _add_options(layer, options)


def _add_options(parent: Element, options: Mapping[str, str | list[dict[str, str]]]) -> None:
    """QGIS's map of named values, a list among them as maps of one."""
    mapped = SubElement(parent, "Option", type="Map")
    for name, value in options.items():
        if isinstance(value, str):
            SubElement(mapped, "Option", name=name, value=value, type="QString")
            continue
        listed = SubElement(mapped, "Option", name=name, type="List")
        for entry in value:
            one = SubElement(listed, "Option", type="Map")
            for label, key in entry.items():
                SubElement(one, "Option", name=label, value=key, type="QString")
