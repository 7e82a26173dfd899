"""Stage 3 settings, AutoMapper: `python -m automapper NETWORK [--setting value ...]`

Every line below is a default. `python -m automapper --help` lists types and legal values;
instantnet/settings/presets.py holds the presets.
"""

from instantnet.settings.stages import MapSettings

C = MapSettings()

# what is mapped, onto what
C.checkpoint = "ckpt/finetune"  # weights.pt of stage 2
C.network = None
C.device = "eyeriss"  # the paper's kind of device; hw_model/devices has more
C.sweep = None
C.bits = []  # all of the checkpoint
C.batch = 1  # latency of a single image
C.save = "ckpt/map"  # report.json, report.html, mappings/

# what it is compared with
C.dataflow = []  # the built-in dataflows are always searched
C.within = None  # the whole space
C.baselines = [
    "row_stationary",
    "weight_stationary",
    "output_stationary",
    "output_stationary_channels",
    "no_local_reuse",
    "row_stationary_fixed",  # the paper's kind of baseline: one mapping for all bit-widths
    "eyeriss_published",
]
C.fixed_at = None  # the widest words: their tiles fit at every other width

# how it is searched
C.objective = "edp"  # the paper's
C.delay = "latency"  # the paper's EDP; interval where only the pace of results counts
C.stages = 3  # pipelines of 2 and 3 stages are compared with multi-cycle
C.fuse = "strips"  # beside the layer-by-layer result, never in its place
C.goal = None  # use the whole budget
C.pareto = False  # doubles the search
C.max_latency = None
C.max_energy = None
C.resume = False
C.warm_start = None  # a result then depends on another run
C.engine = "evolution"  # the paper's; random is the floor, exhaustive for small layers
C.budget = "20000"  # at most 2 CPU seconds a layer and bit-width; how far seeds are apart: docs/automapper.md
C.seed = 0
C.workers = 0
C.backend = "threading"  # the search runs outside Python's lock; loky for processes, dask and ray for more machines
