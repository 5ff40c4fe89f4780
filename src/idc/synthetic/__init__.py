"""Synthetic archives in the published layout, so that nothing here needs patient data.

Each case is one slide: a layout of tissue and IDC on the grid of patches, drawn in two stain
concentrations and turned into colour by the Beer-Lambert law. `texture` hides the classes from
colour; `real` follows the statistics measured on the published patches; either can be drawn with
labels independent of its pixels, or with a planted cue that is correlated with the label.
"""

from idc.synthetic.archive import CUE, NESTED_FOLDER, NESTS, ArchivePlan, create_archive
from idc.synthetic.shortcuts import Cue, Shortcut, plant_cue
from idc.synthetic.slide import Slide, draw_slide

__all__ = [
    "CUE",
    "NESTED_FOLDER",
    "NESTS",
    "ArchivePlan",
    "Cue",
    "Shortcut",
    "Slide",
    "create_archive",
    "draw_slide",
    "plant_cue",
]
