"""Where compiled code finds what in its arrays: dimensions, tensors, and the numbers of a DeviceTable."""

import numpy as np

index = np.uint32  # numba looks for negative indices in signed ones only, which costs an eighth of the time

N, G, K, C, P, Q, R, S = range(8)
W, I, O = range(3)
PLANES = 1 << N | 1 << G | 1 << C  # dimensions whose every step replaces the whole input tile
# columns of DeviceTable.device
LEVELS, FIRST_PE, X, Y, LANE_COUNT, MULTICAST, REDUCE_X, REDUCE_Y, X_DIMS, Y_DIMS, SHARING, FORWARD, BOX = range(13)
LANE_DIMS, FUSED_DIMS, STAYS, HOME = 13, 14, 15, 16
QUEUES, TILES = 1, 2  # DeviceTable.device[FORWARD]: what neighbours pass on, words or whole tiles; 0: nothing
