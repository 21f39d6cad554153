"""Read posteriors back from the files that `Posterior.save` writes."""

from __future__ import annotations

import warnings
from pathlib import Path

from tercet.inference.posteriors import files
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian, UnconstrainedGaussian
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.posteriors.sampled import SampledPosterior
from tercet.inference.posteriors.sites import Model


def load(path: str | Path, *args: object, model: Model | None = None, **kwargs: object) -> Posterior:
    """Read a posterior back.

    Parameters
    ----------
    path : file written by `Posterior.save`
    *args, **kwargs : the data of the fit, needed only for `log_likelihood`, `log_density`, `to_arviz`
    model : the NumPyro model, needed where it is neither a comparison model nor a loss surface. A comparison model, or
        a head, of a class of your own is read from the file where the class has been defined or imported before; else a
        warning names the class and the posterior is loaded without its model

    Returns
    -------
    Posterior
        Draws, means and rewards need no data for linear heads and for chains; a Gaussian on the unconstrained scale
        needs its model and data to transform draws to sites.

    Raises
    ------
    ValueError
        The file is not a posterior, is cut short or in another format, or its projection is of an undefined class.

    Examples
    --------
    >>> import tempfile, os
    >>> from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items
    >>> from tercet.inference import laplace, load
    >>> items = Items.named(["tea", "coffee"])
    >>> fit = laplace(BradleyTerry(AbilityHead(1.0)), items, Comparisons([0], [1], [1]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(fit.save(os.path.join(folder, "drinks")))
    >>> bool((again.center == fit.center).all())
    True
    """
    header, arrays = files.read(path)
    if model is None and header.undefined is not None:
        warnings.warn(
            f"the model of {path} contains an object of class {header.undefined}, which has not been defined: the "
            "posterior is loaded without its model. Define or import the class first, or give load(..., model=...).",
            stacklevel=2,
        )
    context = Context(
        model=header.model if model is None else model,
        args=args if args or kwargs else None,
        kwargs=kwargs,
        x64=True if header.kind == "laplace" else None,
        saved_coords=header.coords,
        saved_projection=header.projection,
    )
    kind, diagnostics = header.kind, header.diagnostics
    if header.posterior == SampledPosterior.__name__:
        samples = {n.removeprefix("samples/"): v for n, v in arrays.items() if n.startswith("samples/")}
        statistics = {n.removeprefix("statistics/"): v for n, v in arrays.items() if n.startswith("statistics/")}
        return SampledPosterior(kind, context, diagnostics, samples, statistics)
    center, factor = arrays["center"], arrays["precision_factor"]
    if header.layout is None:
        return UnconstrainedGaussian(kind, context, diagnostics, center, factor)
    return SiteGaussian(kind, context, diagnostics, center, factor, header.layout, header.positive)
