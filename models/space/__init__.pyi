from .frames import Frame as Frame
from .geometry import distances as distances
from .loss_surfaces import LossSurface as LossSurface
from .sites import Sites as Sites
