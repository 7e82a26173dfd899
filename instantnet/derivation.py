"""From alpha to one architecture: the most probable operations of every layer, within a window of FLOPs or EDP.

    max over ops of  sum over layers of log softmax(alpha)[layer, op]   s.t.  least <= value(ops) <= most

Where each layer's own most probable operation lies within the window, or nothing does, that is the answer. Else it is
found layer by layer: of all partial architectures whose costs so far fall into one cell of a grid, the most probable
goes on. Costs are summed exactly; only what shares a cell is told apart no further.
"""

from collections.abc import Callable

import numpy as np

CELLS = 4096  # of the grid, over all kinds of cost


def most_probable(
    log_p: np.ndarray,
    costs: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    least: float,
    most: float,
) -> np.ndarray:
    """Indices [layers] of the operations; log_p [layers, operations].

    costs [layers, operations, kinds]: what adds up, as FLOPs, or energies and latencies. value: architectures
    [n, layers] of indices -> [n] what the window is about. Where no architecture lies within the window, each layer's
    own most probable operation.
    """
    alone = log_p.argmax(axis=1)
    if least <= value(alone[None])[0] <= most:
        return alone
    found, score = _on_a_grid(log_p, costs)
    values = value(found)
    inside = np.flatnonzero((values >= least) & (values <= most))
    return found[inside[score[inside].argmax()]] if len(inside) else alone


def _on_a_grid(log_p: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(architectures [n, layers], their log-probabilities [n]): the most probable of every cell that one falls into."""
    layers, operations, kinds = costs.shape
    low, high = costs.min(axis=1), costs.max(axis=1)  # [layers, kinds]
    size = int(CELLS ** (1 / kinds))
    step = np.maximum((high - low).sum(axis=0), np.finfo(float).tiny) / size
    chosen = np.empty((1, 0), np.int16)
    above, score = np.zeros((1, kinds)), np.zeros(1)  # above: summed costs above the lowest possible
    for layer in range(layers):
        n = len(chosen)
        op = np.tile(np.arange(operations), n)
        above = np.repeat(above, operations, axis=0) + (costs[layer] - low[layer])[op]
        score = np.repeat(score, operations) + log_p[layer, op]
        cell = np.minimum((above / step).astype(np.int64), size - 1) @ size ** np.arange(kinds)
        order = np.lexsort((-score, cell))
        kept = order[np.unique(cell[order], return_index=True)[1]]
        chosen = np.concatenate([chosen[kept // operations], op[kept, None].astype(np.int16)], axis=1)
        above, score = above[kept], score[kept]
    return chosen.astype(np.int64), score
