"""Pictures for people: labelled grids and the plot of a run's loss. NumPy and Pillow only."""

from .grid import caption_strip, labelled_grid
from .loss_plot import LossCurves, Validation, draw_loss

__all__ = ["LossCurves", "Validation", "caption_strip", "draw_loss", "labelled_grid"]
