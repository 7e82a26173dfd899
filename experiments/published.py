"""The paper's results that can be compared with: read off the authors' result figure.

Accuracies to 0.05 points, EDP to 0.15e-6 J*s (Fu et al., DAC 2021). The baselines are two SP-Net training methods on
MobileNetV2 with a row-stationary mapping.
"""

SYSTEMS = ("InstantNet", "baseline 1", "baseline 2")
CIFAR10 = {  # bit-widths -> system -> (accuracies in %, EDPs in 1e-6 J*s), lowest bit-width first
    (4, 8, 12, 16, 32): {
        "InstantNet": ((93.39, 94.51, 94.50, 94.33, 94.56), (2.4, 10.8, 16.3, 19.6, 47.0)),
        "baseline 1": ((92.00, 93.59, 94.39, 94.32, 94.37), (9.1, 15.6, 21.8, 28.0, 67.2)),
        "baseline 2": ((92.13, 94.01, 93.99, 94.08, 94.25), (9.1, 15.6, 21.8, 28.0, 67.2)),
    },
    (4, 5, 6, 8): {
        "InstantNet": ((93.30, 94.03, 94.29, 94.37), (2.40, 3.73, 3.84, 10.8)),
        "baseline 1": ((92.25, 93.93, 94.2, 94.50), (9.1, 10.7, 12.3, 15.4)),
        "baseline 2": ((92.39, 93.47, 94.20, 94.40), (9.1, 10.7, 12.3, 15.4)),
    },
}
