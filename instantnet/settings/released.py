"""Names and values of the authors' released configuration that have another name here, or are no settings here.

Source: config_search.py and config_train.py of github.com/GATECH-EIC/InstantNet; docs/settings.md has the same table.
"""

from typing import Any

NAMES = {
    "cascad": "teachers = cascade (or highest, next, none)",
    "cascad_weight": "teachers = cascade (or highest, next, none)",
    "cascad_arch": "nothing: no teacher takes part in the step on alpha",
    "criteria": "weight_bits",
    "criteria_arch": "alpha_bits",
    "bit_schedule_arch": "alpha_bits: alpha is updated at one bit-width",
    "num_train_imgs": "nothing: as many as the data set has; max_steps cuts an epoch short",
    "num_eval_imgs": "nothing: as many as the data set has; max_steps cuts a validation short",
    "niters_per_epoch": "nothing: as many as the data set has; max_steps cuts an epoch short",
    "repo_name": "nothing: it named a folder only",
    "bn_eps": "nothing: 1e-5 in every batch norm, the released value",
    "bn_momentum": "nothing: 0.1 in every batch norm, the released value",
    "dws_chwise_quant": "nothing: inputs of depth-wise convolutions always have a range per channel",
    "early_stop_by_skip": "nothing: off in the release; flops_min keeps a search from ending in skips",
    "perturb_alpha": "nothing: off in the release",
    "epsilon_alpha": "nothing: it belongs to perturb_alpha, which is off in the release",
    "unrolled": "nothing: the step on alpha is of first order, as in the release",
    "update_bn_freq": "update_bn: statistics are recalibrated once, after training",
    "num_bits_list_schedule": "num_bits_list: it stays the same in all epochs, as in the release",
    "choice_list_schedule": "num_bits_list: it stays the same in all epochs, as in the release",
    "schedule_freq": "nothing: it belongs to num_bits_list_schedule, which is off in the release",
    "show_distrib": "nothing: it printed weights; TensorBoard events are in the folder `save`",
    "finetune_bn": "update_bn: statistics are recalibrated; off in the release",
    "ft_bn_epoch": "update_bn: it belongs to finetune_bn, which is off in the release",
    "ft_bn_lr": "update_bn: it belongs to finetune_bn, which is off in the release",
    "ft_bn_momentum": "update_bn: it belongs to finetune_bn, which is off in the release",
}
"""Released name -> what says the same here, or `nothing` with the reason."""

VALUES: dict[str, dict[Any, Any]] = {
    "bit_schedule": {"avg_loss": "all"},
    "num_bits_list": {0: 32},
    "pretrain": {False: "none", True: "none"},
}
"""Setting -> {released value: the one that means the same here}."""


def translation(name: str) -> str:
    """`: here it is teachers = cascade ..` for a released name, "" for any other."""
    if name not in NAMES:
        return ""
    says = NAMES[name]
    if says.startswith("nothing: "):
        return f" (of the authors' release): not a setting here, {says.removeprefix('nothing: ')}"
    return f" (of the authors' release): here it is {says}"


def translated(name: str, value: object) -> str:
    """`: the authors' release calls all so` for a released value, "" for any other."""
    meanings = VALUES.get(name, {})
    for element in value if isinstance(value, list) else [value]:
        for released, here in meanings.items():
            if element == released and type(element) is type(released):
                return f": the authors' {released!r} is {here!r} here"
    return ""
