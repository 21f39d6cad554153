"""Read posteriors back from the files that `Posterior.save` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet.inference.posteriors import files
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian, UnconstrainedGaussian
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.posteriors.sampled import SampledPosterior


def load(path: str | Path, *args: Any, model: Callable[..., Any] | None = None, **kwargs: Any) -> Posterior:
    """Read a posterior back.

    Parameters
    ----------
    path : file written by `Posterior.save`
    *args, **kwargs : the data of the fit, needed only for `log_likelihood`, `log_density`, `to_arviz`
    model : the NumPyro model, needed only where it is no comparison model. One of your own class is found where the
        class has been defined before

    Returns
    -------
    Posterior
        Answers every question about rewards, draws and means without the data, for linear heads and for chains; a
        Gaussian over constrained sites needs its model and data to transform them.

    Raises
    ------
    ValueError
        No posterior, cut short, or written in another format.

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
    context = Context(
        model=header["model"] if model is None else model,
        args=args if args or kwargs else None,
        kwargs=kwargs,
        x64=True if header["kind"] == "laplace" else None,
        saved_coords=header["coords"],
        saved_projection=header["projection"],
    )
    kind, diagnostics = header["kind"], header["diagnostics"]
    if header["class"] == SampledPosterior.__name__:
        samples = {n.removeprefix("samples/"): v for n, v in arrays.items() if n.startswith("samples/")}
        statistics = {n.removeprefix("statistics/"): v for n, v in arrays.items() if n.startswith("statistics/")}
        return SampledPosterior(kind, context, diagnostics, samples, statistics)
    center, factor = arrays["center"], arrays["precision_factor"]
    if header["class"] == UnconstrainedGaussian.__name__:
        return UnconstrainedGaussian(kind, context, diagnostics, center, factor)
    layout = tuple((name, length) for name, length in header["layout"])
    return SiteGaussian(kind, context, diagnostics, center, factor, layout)
