from .features import Features as Features
from .features import Identity as Identity
from .features import InMemory as InMemory
from .items import Items as Items
from .on_disk import open_embeddings as open_embeddings
from .principal_components import project as project
from .projection import FeatureMap as FeatureMap
from .projection import Projection as Projection
