"""Drift families: what is known of a system before its parameters are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpy.typing import ArrayLike

from tercet.models._inputs import as_floats
from tercet.models.trajectories.reference_sdes import Drift


def brownian(dim: int) -> Drift:
    """B = 0: no drift, the reference of plain entropic optimal transport.

    Parameters
    ----------
    dim : number of coordinates d
    """
    return Drift(lambda theta, x, t: jnp.zeros_like(x), {}, _axes(dim), affine=True)


def ornstein_uhlenbeck(dim: int) -> Drift:
    """b(x) = rate * (level - x), coordinate by coordinate: sites `rate` [d] > 0 and `level` [d].

    Priors: rate LogNormal(0, 1), level Normal(0, 3); change them by `.with_priors` where the data have other units.

    Parameters
    ----------
    dim : number of coordinates d
    """
    priors = {
        "rate": dist.LogNormal(0.0, 1.0).expand([dim]).to_event(1),
        "level": dist.Normal(0.0, 3.0).expand([dim]).to_event(1),
    }
    return Drift(lambda theta, x, t: theta["rate"] * (theta["level"] - x), priors, _axes(dim), affine=True)


def lotka_volterra() -> Drift:
    """Predator and prey: (alpha x - beta x y, delta x y - gamma y), rates LogNormal(-1, 1) each.

    References
    ----------
    Lotka (1925), Elements of Physical Biology; Volterra (1926), Nature 118.
    """

    def function(theta: Any, x: Any, t: Any) -> Any:
        prey, predator = x[0], x[1]
        return jnp.stack([
            theta["alpha"] * prey - theta["beta"] * prey * predator,
            theta["delta"] * prey * predator - theta["gamma"] * predator,
        ])  # fmt: skip

    priors = {site: dist.LogNormal(-1.0, 1.0) for site in ("alpha", "beta", "gamma", "delta")}
    return Drift(function, priors, ("prey", "predator"))


def repressilator(protein: bool = False) -> Drift:
    """Three genes, each repressing the next: m_i' = beta / (1 + (p_{i-1} / k)^n) - gamma m_i.

    Without `protein` the messenger acts itself, p = m. With it, six coordinates: p_i' = rate (m_i - p_i), protein in
    units in which its steady state equals its messenger's (an unobserved coordinate's own scale is not to be known).

    Priors: beta LogNormal(log 5, 1), n LogNormal(log 2, 0.5), k, gamma, rate LogNormal(0, 1).

    Parameters
    ----------
    protein : add the proteins, which are usually not observed

    References
    ----------
    Elowitz and Leibler (2000), Nature 403.
    """

    def messenger(theta: Any, m: Any, p: Any) -> Any:
        # 1 / (1 + (p / k)^n) as a logistic function of log p: cannot overflow, and powers are slow.
        log_ratio = jnp.log(jnp.maximum(jnp.roll(p, 1), 1e-6)) - jnp.log(theta["k"])
        return theta["beta"] * jax.nn.sigmoid(-theta["n"] * log_ratio) - theta["gamma"] * m

    priors = {
        "beta": dist.LogNormal(float(np.log(5.0)), 1.0),
        "n": dist.LogNormal(float(np.log(2.0)), 0.5),
        "k": dist.LogNormal(0.0, 1.0),
        "gamma": dist.LogNormal(0.0, 1.0),
    }
    names = tuple(f"mRNA {i}" for i in (1, 2, 3))
    if not protein:
        return Drift(lambda theta, x, t: messenger(theta, x, x), priors, names)

    def function(theta: Any, x: Any, t: Any) -> Any:
        m, p = x[:3], x[3:]
        return jnp.concatenate([messenger(theta, m, p), theta["rate"] * (m - p)])

    proteins = tuple(f"protein {i}" for i in (1, 2, 3))
    return Drift(function, {**priors, "rate": dist.LogNormal(0.0, 1.0)}, names + proteins)


def big_vortex(center_sd: float = 3.0) -> Drift:
    """Rotation of the whole plane about a centre with inflow: b(x) = omega J (x - c) - inflow (x - c).

    Sites `omega` (radians a time unit), `inflow`, `center` [2]; J turns by a right angle.

    Parameters
    ----------
    center_sd : prior sd of the centre, in data units
    """

    def function(theta: Any, x: Any, t: Any) -> Any:
        away = x - theta["center"]
        return theta["omega"] * jnp.stack([-away[1], away[0]]) - theta["inflow"] * away

    priors = {
        "omega": dist.Normal(0.0, 2.0),
        "inflow": dist.Normal(0.0, 1.0),
        "center": dist.Normal(0.0, center_sd).expand([2]).to_event(1),
    }
    return Drift(function, priors, _axes(2), affine=True)


def lamb_oseen(vortices: int = 1, center_sd: float = 3.0) -> Drift:
    """Lamb-Oseen vortices: b(x) = sum_v circulation_v J r / (2 pi |r|^2) (1 - exp(-|r|^2 / core_v^2)), r = x - c_v.

    Sites `circulation` [v], `core` [v] (radius, data units), `center` [v, 2].

    Parameters
    ----------
    vortices : how many
    center_sd : prior sd of the centres, in data units

    References
    ----------
    Saffman (1992), Vortex Dynamics, section 13.1.
    """
    if vortices < 1:
        raise ValueError(f"vortices must be at least 1, got {vortices}.")

    def function(theta: Any, x: Any, t: Any) -> Any:
        away = x - theta["center"]  # [v, 2]
        square = jnp.square(away).sum(axis=1)
        reach = jnp.square(theta["core"])
        # -expm1(-u) / u is smooth at the centre; the quotient is taken off it.
        u = jnp.maximum(square / reach, 1e-8)
        speed = theta["circulation"] / (2.0 * jnp.pi * reach) * -jnp.expm1(-u) / u
        return (speed[:, None] * jnp.stack([-away[:, 1], away[:, 0]], axis=1)).sum(axis=0)

    priors = {
        "circulation": dist.Normal(0.0, 5.0).expand([vortices]).to_event(1),
        "core": dist.LogNormal(0.0, 0.7).expand([vortices]).to_event(1),
        "center": dist.Normal(0.0, center_sd).expand([vortices, 2]).to_event(2),
    }
    return Drift(function, priors, _axes(2))


def coupled_springs(masses: int, dim: int = 1) -> Drift:
    """A chain of unit masses between two walls: q'' = -stiffness K (q - rest) - damping q', K the chain's matrix.

    K has 2 on and -1 beside the diagonal. Coordinates: positions, then velocities, each masses * dim long; noise
    belongs on the velocities only: `diagonal_volatility(2 * m, [0] * m + [s] * m)`, m = masses * dim.

    Sites `stiffness`, `damping` LogNormal(0, 1), `rest` [masses * dim] Normal(0, 3).

    Parameters
    ----------
    masses : number of masses (markers, joints)
    dim : dimensions in which each moves
    """
    if masses < 1 or dim < 1:
        raise ValueError(f"masses and dim must be at least 1, got {masses} and {dim}.")
    size = masses * dim
    chain = 2.0 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1)
    coupling = np.kron(chain, np.eye(dim))

    def function(theta: Any, x: Any, t: Any) -> Any:
        q, v = x[:size], x[size:]
        pull = jnp.asarray(coupling.astype(x.dtype)) @ (q - theta["rest"])
        return jnp.concatenate([v, -theta["stiffness"] * pull - theta["damping"] * v])

    priors = {
        "stiffness": dist.LogNormal(0.0, 1.0),
        "damping": dist.LogNormal(0.0, 1.0),
        "rest": dist.Normal(0.0, 3.0).expand([size]).to_event(1),
    }
    labels = [
        f"{i + 1}" if dim == 1 else f"{i + 1}{'xyz'[k] if dim < 4 else k}" for i in range(masses) for k in range(dim)
    ]
    return Drift(function, priors, [f"position {s}" for s in labels] + [f"velocity {s}" for s in labels], affine=True)


def gradient_field(
    center: ArrayLike, scale: ArrayLike, potential: str = "mlp", width: int = 16, strength: float | None = 0.5
) -> Drift:
    """B = -grad U for a linear, quadratic or neural potential on standardised coordinates z = (x - center) / scale.

    - linear: U = -push . x / scale, a constant drift;
    - quadratic: U = z' A z / 2 - push . z with A symmetric (site `curvature`, its upper triangle);
    - mlp: the linear one plus sum_h out_h tanh(W_h . z + bias_h), whose gradient is bounded: particles cannot explode.

    Drift is in units of `scale` a time unit, `strength` times weights with standard Normal priors: the data must ask
    for a drift. Choose between potentials by held-out snapshots (`tercet.inference.choose_reference`).

    Parameters
    ----------
    center, scale : arrays [d], for example mean and sd of all particles (`Snapshots.center`, `Snapshots.scale`)
    potential : "linear", "quadratic" or "mlp"
    width : hidden units of the mlp
    strength : prior scale of the drift: 0.5 for times in which a cloud moves by about its width in one unit; None to
        learn it under HalfNormal(1), for linear and quadratic potentials only: at the joint mode a neural potential
        takes a large strength and many small weights, which fits noise
    """
    middle = as_floats("center", center, 1).astype(np.float64)
    unit = as_floats("scale", scale, 1).astype(np.float64)
    if middle.shape != unit.shape or (unit <= 0).any():
        raise ValueError(f"center and scale must be [d], scale positive; got {middle.shape}, {unit}.")
    if potential not in ("linear", "quadratic", "mlp"):
        raise ValueError(f'potential must be "linear", "quadratic" or "mlp", got {potential!r}.')
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}.")
    if strength is not None and not 0 < strength < np.inf:
        raise ValueError(f"strength must be positive and finite, got {strength}; None learns it.")
    dim = len(middle)
    rows, columns = np.triu_indices(dim)

    def normal(*shape: int, sd: float = 1.0) -> Any:
        return dist.Normal(0.0, sd).expand(shape).to_event(len(shape))

    priors: dict[str, Any] = {"push": normal(dim)}
    if potential == "quadratic":
        priors |= {"curvature": normal(len(rows))}
    elif potential == "mlp":
        priors |= {"weights": normal(width, dim), "bias": normal(width, sd=1.5), "out": normal(width)}
    if strength is None:
        priors |= {"strength": dist.HalfNormal(1.0)}

    def function(theta: Any, x: Any, t: Any) -> Any:
        step = jnp.asarray(unit.astype(x.dtype))
        z = (x - jnp.asarray(middle.astype(x.dtype))) / step
        force = theta["push"]
        if potential == "quadratic":
            upper = jnp.zeros((dim, dim), x.dtype).at[rows, columns].set(theta["curvature"])
            force = force - (upper + upper.T) @ z / 2.0
        elif potential == "mlp":
            slope = 1.0 / jnp.square(jnp.cosh(jnp.clip(theta["weights"] @ z + theta["bias"], -30.0, 30.0)))
            force = force - (theta["out"] * slope) @ theta["weights"] / np.sqrt(width)
        return (theta["strength"] if strength is None else strength) * force * step

    return Drift(function, priors, _axes(dim), affine=potential != "mlp")


def _axes(dim: int) -> tuple[str, ...]:
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}.")
    return tuple(f"x{i}" for i in range(dim))
