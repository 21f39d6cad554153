from .gaussian import GaussianPosterior as GaussianPosterior
from .gaussian import SiteGaussian as SiteGaussian
from .gaussian import UnconstrainedGaussian as UnconstrainedGaussian
from .minimise import Solution as Solution
from .posterior import Posterior as Posterior
from .sampled import SampledPosterior as SampledPosterior
