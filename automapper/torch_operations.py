"""Names of torch's operations (namespace aten), by their role in the capture of a network. Imports no torch."""

PRODUCTS = {  # -> position of the left operand among the arguments
    "mm": 0, "bmm": 0, "mv": 0, "dot": 0, "vdot": 0, "_int_mm": 0, "_scaled_mm": 0,
    "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1, "addmv": 1, "addmv_": 1, "_addmm_activation": 1,
}  # fmt: skip
ATTENTION = {
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
}
REFUSED = {  # full of products that are not visible one by one
    "_trilinear", "addbmm", "addbmm_", "mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "deform_conv2d",
    "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_flash_attention_forward",
    "_efficient_attention_forward", "_convert_weight_to_int4pack", "_weight_int4pack_mm", "_weight_int8pack_mm",
    "_sparse_addmm", "_sparse_mm", "_grouped_mm", "_scaled_grouped_mm", "conv_tbc", "_convolution",
    "mkldnn_convolution", "mkldnn_linear", "_slow_conv2d_forward", "_conv_depthwise2d", "conv_depthwise3d",
    "slow_conv3d",
}  # fmt: skip
HANDLED = {"convolution", *PRODUCTS, *ATTENTION, *REFUSED}
CREATES = {  # a tensor from the shape of another, whatever its elements
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_empty_strided",
    "new_zeros", "new_ones", "new_full",
}  # fmt: skip
MOVES = {  # elements without computing any
    "clone", "copy_", "copy", "_to_copy", "cat", "stack", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll", "flip", "repeat",
    "repeat_interleave", "as_strided", "as_strided_", "_unsafe_view", "_reshape_copy", "_reshape_alias", "unsafe_split",
    "unsafe_split_with_sizes", "split_with_sizes_copy", "index", "_unsafe_index", "index_select", "gather", "take",
    "embedding", "scatter", "scatter_", "index_put", "index_put_", "select_scatter", "slice_scatter", "im2col",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "lift_fresh", "detach_", "fill",
    "fill_", "zero_", "resize_", "set_", "_local_scalar_dense", "equal", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "_fused_sdp_choice",
}  # fmt: skip
KINDS = {  # names for readers
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_batch_norm_impl_index": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "_safe_softmax": "softmax",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "mkldnn_max_pool2d": "max_pool2d",
}
NORMS = {  # the first argument passes through, channel by channel, to the first output
    "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
    "batch_norm", "_batch_norm_impl_index", "miopen_batch_norm",
}  # fmt: skip
PASSES = {  # element by element, besides those that torch tags as pointwise; of equal shape only
    "channel_shuffle", "native_channel_shuffle",  # a reader takes the channels in another order: groups are cut by rows
    "alias", "detach", "detach_", "view", "_unsafe_view", "clone", "_to_copy", "contiguous", "lift_fresh", "hardtanh",
    "hardtanh_", "relu6", "hardswish", "hardswish_", "leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel", "gelu",
}  # fmt: skip
ADDS = {"add", "add_"}
