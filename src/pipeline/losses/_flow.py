"""Where the losses of the Dice family lead: value, gradient and Laplacian over the plane of two pixels.

The numbers behind figures 3 to 5 of Diakogiannis et al. (2020), by automatic differentiation of the losses themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pipeline.losses._overlap import Form, dissimilarity

NO_SMOOTHING = 1e-12  # the figures are of the equations, which have none


class Flow(NamedTuple):
    """A loss L over probabilities (p_x, p_y) in [0, 1]²; arrays are float64, rows p_y and columns p_x, both ascending.

    `axis` [side] has the values of p_x and p_y; `loss`, `slope_x` (∂L/∂p_x), `slope_y` (∂L/∂p_y) and `laplacian`
    (∂²L/∂p_x² + ∂²L/∂p_y²) are [side, side].
    """

    axis: np.ndarray
    loss: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    laplacian: np.ndarray


def flow(form: Form, complement: bool, truth: tuple[float, float], side: int) -> Flow:
    """The loss 1 − D of two pixels of one class with the given truth (l_x, l_y), for side × side probabilities.

    Every pair of probabilities is a sample of two pixels, so that one backward pass gives all gradients.
    """
    axis = torch.linspace(0, 1, side, dtype=torch.float64)
    p_y, p_x = torch.meshgrid(axis, axis, indexing="ij")
    pair = torch.stack([p_x, p_y], dim=-1).reshape(-1, 1, 1, 2).requires_grad_()
    target = torch.tensor(truth, dtype=torch.float64).expand_as(pair)
    loss = dissimilarity(pair, target, form=form, complement=complement, per="sample", smooth=NO_SMOOTHING)
    (slope,) = torch.autograd.grad(loss.sum(), pair, create_graph=True)
    laplacian = torch.zeros_like(loss)
    for pixel in range(2):
        (curvature,) = torch.autograd.grad(slope[..., pixel].sum(), pair, retain_graph=True)
        laplacian = laplacian + curvature[:, 0, 0, pixel]
    planes = (loss, slope[:, 0, 0, 0], slope[:, 0, 0, 1], laplacian)
    return Flow(axis.numpy(), *(plane.detach().reshape(side, side).numpy() for plane in planes))
