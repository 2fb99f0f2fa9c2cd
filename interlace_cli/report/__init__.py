"""What people are shown: the HTML report, the model card, tables and figures. Pure: text and bytes, no files.

To change: `report.html` -> `html.py`, its tables -> `tables.py`, its pictures -> `strip.py`, `heatmap.py`, `curves.py`,
drawn by `drawing.py`; the model card -> `card.py`, its YAML header -> `card_metadata.py`; how a figure is written out
(rounding, units) -> `cells.py`; the output of `interlace compare` -> `comparison.py`, `figure.py`; of `interlace bench`
-> `benchmark.py`.
"""
