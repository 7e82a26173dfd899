"""Stage 3 settings, AutoMapper: `python -m automapper CHECKPOINT [--setting value ...]`

Every line below is a default. `python -m automapper --help` lists types and legal values.
"""

from runtime.stages import MapSettings

C = MapSettings()

C.checkpoint = "ckpt/finetune"  # weights.pt of stage 2
C.save = "ckpt/map"  # report.json
C.device = "eyeriss"  # the paper's device class; hw_model/devices has more
C.bits = []  # all bit-widths of the checkpoint
C.batch = 1  # latency of a single image, as the paper reports it
C.objective = "edp"  # the paper's objective
C.budget = 20000  # mappings per layer and bit-width
C.seed = 0

PRESETS = {}
