"""Class labels from maps: road widths on the ground, buffers in metres, rasterising, and each label's source."""
