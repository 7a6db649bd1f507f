"""Flow maps: jumps from one time to another, exact or learned, and the objectives that train them."""

from ebbflow.methods.maps.kinds import MAPS, MapKind, map_kind
from ebbflow.methods.maps.objective import MapObjective
from ebbflow.methods.maps.solved import ODEMap

__all__ = ["MAPS", "MapKind", "MapObjective", "ODEMap", "map_kind"]
