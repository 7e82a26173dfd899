"""What stays on the chip between layers: how many bits, which strips, and what a layer of a group costs."""

import dataclasses
import itertools
import random

import pytest
import random_cases
import row_by_row
import word_sets

import hw_model
from hw_model import InputError, InvalidMapping, Layer, Mapping, evaluate
from hw_model.fusion import (
    Member,
    home_of,
    in_group,
    live,
    live_rows,
    loading,
    may_pin,
    on_strip,
    room_bits,
    row_ends,
    rows_of,
    strips_of,
    tensors_that_stay,
    with_reads,
)

SAMPLE, CHAINS = 200, 5000  # of the default suite, of `make test-full`
EYERISS = hw_model.load_device("eyeriss")


def random_chain(rng):
    """A group of 1 to 5 layers: filters of 1 to 5 rows, strides, dilation, padding; reads of any earlier layer where it
    fits; adds of any of the same shape."""
    group = []
    rows = rng.randint(4, 24)
    for index in range(rng.randint(1, 5)):
        source = rng.choice([index - 1, index - 1, index - 1, rng.randrange(index)]) if index else None
        H = group[source].layer.P if index else rows
        R, stride, dilation = rng.choice([1, 1, 2, 3, 3, 5]), rng.choice([1, 1, 1, 2, 2, 3]), rng.choice([1, 1, 1, 2])
        reach = (R - 1) * dilation + 1
        pad = rng.choice([0, (reach - 1) // 2, (reach - 1) // 2])
        below = rng.choice([0, pad])
        if (P := (H + pad + below - reach) // stride + 1) < 1:
            R, dilation, pad, P = 1, 1, 0, (H - 1) // stride + 1
        layer = Layer(
            name=f"layer {index}", G=rng.randint(1, 3), K=rng.randint(1, 3), P=P, Q=rng.randint(1, 5), R=R, H=H,
            stride_h=stride, dilation_h=dilation, pad_top=pad,
        )  # fmt: skip
        alike = [i for i, member in enumerate(group) if member.layer.P == P]
        adds = tuple(rng.sample(alike, min(len(alike), rng.choice([0, 0, 1, 2])))) + (None,) * (rng.random() < 0.1)
        group.append(Member(layer, source, adds, rng.random() < 0.9, rng.choice([4, 8, 16])))
    return (*group[:-1], dataclasses.replace(group[-1], stays=False))


def plain(group):
    return [
        {"P": m.layer.P, "H": m.layer.H, "R": m.layer.R, "stride": m.layer.stride_h, "dilation": m.layer.dilation_h,
         "pad": m.layer.pad_top, "source": m.source, "adds": m.adds, "stays": m.stays}
        for m in group
    ]  # fmt: skip


def check_chain(seed):
    group = random_chain(random.Random(seed))
    rows = group[-1].layer.P
    for strips in [n for n in range(1, rows + 1) if rows % n == 0]:
        steps = row_by_row.run(plain(group), strips)
        ends = row_ends(group, strips)
        bits = [m.layer.N * m.layer.G * m.layer.K * m.layer.Q * m.bits for m in group]
        for index in range(len(group)):
            computed = [step[index][0] for step in steps]
            assert [row for part in computed for row in part] == list(range(group[index].layer.P)), "each row once"
            assert [part.stop for part in computed] == ends[index, 1:].tolist(), (seed, strips, index)
            truth = [step[index][1] for step in steps]
            if strips == 1:  # an output of which rows are wanted is there as a whole
                truth = [[m.layer.P if held else 0 for m, held in zip(group, truth[0], strict=True)]]
            peak = max(sum(n * b for n, b in zip(held, bits, strict=True)) for held in truth)
            assert live_rows(group, strips)[index].tolist() == truth, (seed, strips, index)
            assert live(group, strips, index) == peak


@pytest.mark.parametrize("chunk", range(4))
def test_live_is_what_a_row_by_row_simulation_holds(chunk):
    for seed in range(chunk, SAMPLE, 4):
        check_chain(seed)


@pytest.mark.full
@pytest.mark.parametrize("chunk", range(12))
def test_live_is_what_a_row_by_row_simulation_holds_on_every_chain(chunk):
    for seed in range(SAMPLE + chunk, CHAINS, 12):
        check_chain(seed)


def bottleneck(stride=1):
    """1x1 to 3x3 depth-wise to 1x1, with the input of the first added to the output of the last; 8 x 8, 8 bit."""
    out = 8 // stride
    return (
        Member(Layer(name="stem", K=4, C=3, P=8, Q=8), stays=stride == 1, bits=8),
        Member(Layer(name="expand", K=8, C=4, P=8, Q=8), 0, (), True, 8),
        Member(
            Layer(name="depthwise", G=8, P=out, Q=out, R=3, S=3, stride=stride, H=8, W=8, pad_top=1, pad_left=1),
            1, (), True, 8,
        ),
        Member(Layer(name="project", K=4, C=8, P=out, Q=out), 2, (0,) if stride == 1 else (), False, 8),
    )  # fmt: skip


def test_live_bits_by_hand():
    group = bottleneck()
    row = 8 * 8 * 4, 8 * 8 * 8, 8 * 8 * 8  # bits of a row of stem, expand, depthwise
    assert row_ends(group, 4).tolist() == [[0, 3, 5, 7, 8], [0, 3, 5, 7, 8], [0, 2, 4, 6, 8], [0, 2, 4, 6, 8]]
    # While expand runs its first strip, 3 rows of each; then 1 of stem waits to be added beside 2 that are new, and
    # expand's last 2 rows wait for the next strip's filter.
    assert live_rows(group, 4)[1, :2].tolist() == [[3, 3, 0, 0], [3, 4, 0, 0]]
    assert live(group, 4, 1) == 3 * row[0] + 4 * row[1]
    assert live(group, 4, 3) == 3 * row[0] + 2 * row[1] + 2 * row[2]
    assert live(group, 1, 2) == 8 * sum(row)


def test_strips_read_their_halo_and_no_padding_between():
    dw = bottleneck()[2].layer
    top, middle, bottom = rows_of(dw, 0, 2), rows_of(dw, 2, 4), rows_of(dw, 6, 8)
    assert [(one.P, one.H, one.pad_top) for one in (top, middle, bottom)] == [(2, 3, 1), (2, 4, 0), (2, 3, 0)]
    assert strips_of(bottleneck(), 4, 2) == ((top, 1), (middle, 2), (bottom, 1))
    assert strips_of(bottleneck(), 1, 2) == ((dw, 1),)
    with pytest.raises(InputError, match="padding only"):
        rows_of(Layer(name="far", P=9, R=1, H=5, pad_top=4), 0, 3)
    with pytest.raises(InputError, match="3 strips: the last layer has 8 rows"):
        row_ends(bottleneck(), 3)


def small_group(rng):
    """Two or three layers: 1x1 to 3x3 depth-wise, 3x3 to 3x3, stride 2, a skip; 4 rows of 2 or 3 columns."""
    stride, columns, first = rng.choice([1, 2]), rng.choice([2, 3]), rng.choice([1, 3])
    a = Layer(name="a", K=2, P=4, Q=columns, R=first, S=first, H=4, W=columns, pad_top=first // 2, pad_left=first // 2)
    wide = {"G": 2} if rng.random() < 0.5 else {"K": 2, "C": 2}
    b = Layer(
        name="b", P=4 // stride, Q=-(-columns // stride), R=3, S=3, stride=stride, H=4, W=columns, pad_top=1,
        pad_left=1, **wide,
    )  # fmt: skip
    group = [Member(a, None, (), True, 8), Member(b, 0, (0,) if stride == 1 and rng.random() < 0.5 else (), False, 8)]
    if rng.random() < 0.5:
        c = Layer(name="c", K=2, C=2, P=b.P, Q=b.Q)
        group[1] = dataclasses.replace(group[1], stays=True)
        group.append(Member(c, 1, rng.choice([(), (1,)]), False, 8))
    return tuple(group)


def true_counters(layer, loops, device, holds):
    """word_sets' counters of a layer whose chains of memories begin where `holds` says."""
    fields = {name: getattr(layer, name) for name in layer.__dataclass_fields__}
    return word_sets.run(
        fields, loops, device.level_names, device.first_pe_level, holds, multicast=device.multicast,
        reduces=device.reduces, sharing=device.input_sharing, box=False, forward=False, width=device.array[0],
    )  # fmt: skip


def random_device(rng):
    """A device with a memory outside its PEs for inputs and outputs; roomy, so that tiny layers fit."""
    while True:
        fields = random_cases.device_fields(rng) | {"input_words": "real", "forward_inputs": False}
        for level in fields["levels"][1:]:
            level["size_bits"] = 2**20
        device = hw_model.load_device(fields)
        if home_of(device) is not None:
            return device


def check_group(seed):
    """Every strip of a small group with a random mapping of each layer, against the sets of words that really move.
    Returns how many strips there were."""
    rng = random.Random(seed)
    group, device = small_group(rng), random_device(rng)
    rows = group[-1].layer.P
    strips = rng.choice([n for n in range(1, rows + 1) if rows % n == 0])
    return sum(check_member(rng, group, strips, index, device) for index in range(len(group)))


def check_member(rng, group, strips, index, device):
    home = device.level_names[home_of(device)]
    stays = tensors_that_stay(group, index, pinned=may_pin(device) and rng.random() < 0.5)
    view = in_group(device, stays, live(group, strips, index))
    kept = {level.name: set(level.holds) for level in view.levels}
    holds = {name: tensors - {*stays} if name == "dram" else tensors for name, tensors in kept.items()}
    holds[home] = holds[home] | {*stays}
    largest = max((layer for layer, _ in strips_of(group, strips, index)), key=lambda layer: layer.P)
    for _ in range(4):
        loops = random_cases.loops_of(rng, largest, list(view.slots))
        mapping = Mapping.from_dict({slot: [list(pair) for pair in pairs] for slot, pairs in loops.items()}).on(view)
        checked = 0
        for begin, end in itertools.pairwise(row_ends(group, strips)[index].tolist()):
            if begin == end:
                continue
            part = rows_of(group[index].layer, begin, end) if strips > 1 else group[index].layer
            mine = on_strip(mapping, part, view)
            truth = true_counters(part, dict(mine.loops), device, holds)
            try:
                cost = evaluate(part, mine, view, 8)
            except InvalidMapping as error:
                assert "O stays here, written once" in str(error)
                back = true_counters(part, dict(mine.loops), device, {**holds, "dram": {*"WIO"}})[home]["O"]["fills"]
                assert back > 0 or truth[home]["O"]["reads"] > 0, "partial sums do come back"
                break
            for level, tensor in itertools.product(device.level_names, "WIO"):
                for counter in ("reads", "fills", "updates", "drains"):
                    found, expected = getattr(cost.levels[level][tensor], counter), truth[level][tensor]
                    assert found == expected.get(counter, 0), (level, tensor, counter, part, mine, stays)
            if "O" in stays and "O" in view.levels[view.home].holds:
                fills = true_counters(part, dict(mine.loops), device, {**holds, "dram": {*"WIO"}})[home]["O"]["fills"]
                assert not fills, "each word is written once"
            checked += 1
        else:
            return checked
    return 0


@pytest.mark.sample(2)
@pytest.mark.parametrize("chunk", range(4))
def test_every_strip_of_a_group_moves_the_words_that_are_counted(chunk):
    assert sum(check_group(seed) for seed in range(chunk, 60, 4)) > 30


@pytest.mark.parametrize("seed", range(40))
def test_a_group_of_one_is_the_layer_bit_for_bit(seed):
    rng = random.Random(seed)
    device = hw_model.load_device(random_cases.device_fields(rng))
    fields, loops = random_cases.layer_and_loops(rng, list(device.slots))
    layer = Layer.from_dict(fields)
    alone = (Member(layer, None, (), False, 16),)
    assert in_group(device, tensors_that_stay(alone, 0), live(alone, 1, 0)) is device
    ((same, times),) = strips_of(alone, 1, 0)
    mapping = Mapping.from_dict({slot: [list(pair) for pair in pairs] for slot, pairs in loops.items()})
    assert (same, times) == (layer, 1)
    cost = evaluate(layer, mapping, device, 16)
    assert with_reads(cost, device, 16, 0, 0, 16) == cost


def test_an_input_on_the_chip_is_read_at_the_buffer():
    layer = Layer(K=4, C=2, P=4, Q=4)
    mapping = {"dram": [["P", 4]], "glb": [["K", 2]], "spatial_x": [["Q", 4]], "rf": [["C", 2], ["K", 2]]}
    off, on = evaluate(layer, mapping, EYERISS, 8), evaluate(layer, mapping, in_group(EYERISS, "I", 1000), 8)
    assert off.levels["dram"]["I"].reads == off.levels["glb"]["I"].fills == 32
    assert on.levels["dram"]["I"].reads == on.levels["glb"]["I"].fills == 0
    assert on.levels["glb"]["I"].reads == off.levels["glb"]["I"].reads == 32
    assert on.levels["glb"]["I"].energy_pj == 32 * 8 * EYERISS.levels[1].read_energy_pj_per_bit["I"]
    assert on.levels["dram"]["O"] == off.levels["dram"]["O"]


def test_an_output_on_the_chip_is_written_once_and_never_read_out():
    layer = Layer(K=4, C=4, P=4, Q=4)
    mapping = {"dram": [["P", 4]], "glb": [["C", 2], ["K", 2]], "spatial_x": [["Q", 4]], "rf": [["C", 2], ["K", 2]]}
    off, on = evaluate(layer, mapping, EYERISS, 8), evaluate(layer, mapping, in_group(EYERISS, "O", 1000), 8)
    assert (off.levels["dram"]["O"].updates, off.levels["glb"]["O"].drains) == (64, 64)
    assert (on.levels["dram"]["O"].updates, on.levels["glb"]["O"].drains) == (0, 0)
    assert on.levels["glb"]["O"].updates == off.levels["glb"]["O"].updates == 128
    spilling = {**mapping, "dram": [["C", 2], ["P", 4]], "glb": [["K", 2]]}
    evaluate(layer, spilling, EYERISS, 8)
    with pytest.raises(InvalidMapping, match="glb: O stays here, written once, but partial sums would come back"):
        evaluate(layer, spilling, in_group(EYERISS, "O", 1000), 8)


def test_what_is_added_is_read_where_it_lies_and_shares_the_bandwidth():
    layer = Layer(K=4, C=2, P=4, Q=4)
    cost = evaluate(layer, {"dram": [["P", 4], ["Q", 4], ["K", 4], ["C", 2]]}, EYERISS, 8)
    more = with_reads(cost, EYERISS, 8, 0, 10**6, 8)
    moved = sum(cost.levels["dram"][t].reads * 8 for t in "WI") + cost.levels["dram"]["O"].reads * 16 + 8 * 10**6
    assert more.cycles == -(-moved // 28.8)
    assert more.levels["dram"]["O"].reads == cost.levels["dram"]["O"].reads + 10**6
    idle = (more.cycles - cost.cycles) * 159 * 1e3 / 200
    assert more.energy_pj == pytest.approx(cost.energy_pj + 8e6 * 13.671875 + idle, rel=1e-12)


def test_pinned_weights_are_loaded_once():
    device = hw_model.load_device("edge_tpu_like")
    layer = Layer(K=64, C=64, P=4, Q=4)
    cost = loading(layer, device, 8)
    assert cost.levels["dram"]["W"].reads == cost.levels["sram"]["W"].fills == 4096
    assert cost.cycles == -(-4096 * 8 // 213.333)
    assert cost.energy_pj == pytest.approx(4096 * 8 * (8.0 + 0.277578))
    assert not may_pin(EYERISS) and may_pin(device)


def test_what_a_device_cannot_do_is_one_line():
    with pytest.raises(InputError, match="glb: 819200 bits stay on the chip, there are 819200"):
        in_group(EYERISS, "IO", room_bits(EYERISS))
    with pytest.raises(InputError, match="does not hold weights where"):
        in_group(EYERISS, "WI", 100)
