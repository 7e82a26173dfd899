"""Stage 1 settings, SP-NAS: `python train_search.py [--preset NAME[,NAME]] [--setting value ...]`

Every line below is a default. It follows the paper (Fu et al., DAC 2021); where the authors' released code differs, the
comment says so and the preset `released` sets it. `python train_search.py --help` lists types and legal values;
instantnet/settings/presets.py holds the presets.

    command                                     device        time       lowest-bit validation accuracy of the supernet
    python train_search.py --preset digits      2 CPU cores   see README.md, "What the demo prints"
    python train_search.py                      one GPU       CIFAR-100, 50 epochs; not measured yet
"""

from instantnet.settings.stages import SearchSettings

C = SearchSettings()

# run
C.seed = 12345  # as released
C.save = "ckpt/search"  # arch.pt, checkpoint.pt, logs.txt, metrics.jsonl, TensorBoard events
C.resume = False
C.overwrite = False  # two mistaken starts would lose a finished run
C.checkpoint_every = 0  # only at the end of each epoch; on Ctrl-C and SIGTERM in any case
C.keep_checkpoints = 0  # only the newest, which is replaced once the next is written whole
C.check_every = 20  # a GPU idles while its losses are read; the first that is not finite is named exactly
C.device = "auto"  # a GPU where there is one
C.sync_bn = False  # as DistributedDataParallel; True: the run of one process with the whole batch, slower
C.channels_last = True  # depth-wise convolutions run several times faster so on a CPU
C.fused_quantizer = True
C.compiled_layers = True  # needs channels_last; docs/training.md says what it changes in the last digits
C.keep_memory = True
C.mixed_precision = "none"  # bfloat16 is for GPUs; a CPU without AMX gains nothing
C.tf32 = False  # 12- and 16-bit codes need more than its 11 significant bits; torch's own default for convolutions
C.tune_convolutions = False  # True: faster, but a run does not repeat to the bit
C.compile = False  # for GPUs; on a CPU compiled_layers is as fast without minutes of compilation
C.cuda_graph = False  # for GPUs: a step's thousands of small kernels start at once
C.num_threads = 0
C.num_workers = 4  # only for data sets that are decoded from files
C.prefetch = 2
C.memory_limit_mb = 2048  # CIFAR-10 takes 176
C.image_cache = None  # a folder, where many runs read the same images: they are decoded once
C.skip_broken = False  # a set that shrinks should not pass unseen
C.nepochs = 50  # the authors' full runs; the release ships 25
C.eval_epoch = 1
C.max_steps = 0  # whole epochs

# data
C.dataset = "cifar100"
C.dataset_path = "data"
C.num_classes = None  # the data set's own
C.image_height = 32
C.image_width = 32
C.crop_padding = 4  # CIFAR recipe
C.flip = True
C.normalisation = "measured"  # released: deviations of CIFAR that are averages over images
C.val_portion = 0.0  # test images are set apart by whoever took them; 0.2 is usual
C.batch_size = 64
C.shuffle = True
C.drop_last = True  # a last batch of one image has no batch statistics
C.train_portion = 0.5  # half trains the weights, half alpha
C.split = "random"  # seeded; released: "index", the first half and the second

# network: 22 searched layers, 9 operations each
C.num_layer_list = [1, 4, 4, 4, 4, 4, 1]
C.num_channel_list = [16, 24, 32, 64, 112, 184, 352]
C.stride_list = [1, 1, 2, 2, 1, 2, 1]
C.stem_channel = 16
C.stem_stride = 1
C.header_channel = 1504

# precision
C.num_bits_list = [4, 8, 12, 16, 32]
C.quantizer = "minmax"  # the paper's; docs/method.md compares the others
C.quantize_ends = False  # released; the paper is silent
C.range_scope = "bit_width"  # released: "shared"
C.range_momentum = 0.1  # released: 0.9

# cascade distillation (weights)
C.teachers = "cascade"  # CDT
C.distill_loss = "mse"  # CDT; its pull grows with the logits, that of kl is bounded
C.distill_temperature = 1.0  # of kl and soft
C.distill_reduction = "sum"  # CDT; mean: four teachers pull as hard as one
C.distill_weight = 1.0  # beta
C.distill_warmup = 0  # neither paper nor release
C.bit_schedule = "all"
C.pass_order = "descending"  # teachers first; released: rising where teachers are not the cascade
C.schedule_rules = "cascade"  # released: other schedules than "all" do not distil
C.loss_scale = [1.0]  # the same for every bit-width
C.loss_reduction = "mean"  # 1/N of the paper's equation; released: "sum"
C.label_smoothing = 0.0  # neither paper nor release
C.weight_bits = "all"  # SP-NAS

# optimiser of the weights
C.opt = "sgd"
C.lr = 0.025
C.momentum = 0.9
C.weight_decay = 5e-4
C.betas = [0.5, 0.999]
C.grad_clip = 5.0
C.clip_when = "always"  # released: not in the joint step, which is the default one
C.lr_schedule = "cosine"
C.lr_ahead = False  # released: True in the search, whose scheduler steps before the epoch
C.learning_rate_min = 1e-3
C.decay_epoch = 20
C.lr_decay = 0.97
C.milestones = [50, 100, 200]
C.gamma = 0.1
C.warmup_epochs = 0  # neither paper nor release
C.pretrain = None

# architecture
C.alpha_bits = "lowest"  # SP-NAS: the lowest bit-width is the bottleneck
C.sample_func = "gumbel_softmax"
C.temp_init = 3.0
C.temp_decay = 0.94  # over 50 epochs; the release ships 0.88 over 25
C.sample_paths = 0  # the paper's: every candidate runs; 1 or 2 are several times faster, and another method
C.gumbel_noise = "per_step"  # one sample for all bit-widths and L_eff; released: "per_forward"
C.alpha_pass = "frozen"  # held-out images leave no trace in the weights' statistics; released: "recorded"
C.arch_learning_rate = 3e-4
C.alpha_step = "joint"  # released: "separate", two Adam steps
C.efficiency_metric = "flops"  # the paper's; energy, latency and edp count what a device's table says
C.hw_device = None
C.efficiency_bits = "lowest"  # as alpha_bits
C.efficiency_budget = "4000"  # on eyeriss within 0.5 % of 20000 for each of 24 candidates, in half the time
C.efficiency_weight = 0.01  # pulls as flops_weight does on a network of 100 MFLOPs
C.flops_weight = 1e-10  # as released; halved and doubled by the window below
C.flops_min = 120e6
C.flops_max = 130e6
C.flops_from = 0  # released: 1, no validation and no change of lambda after the first epoch
C.energy_min = None  # a window needs to know the device: the reachable range is printed before the first step
C.energy_max = None
C.latency_min = None
C.latency_max = None
C.edp_min = None
C.edp_max = None
C.validation = "noise_free"
C.derivation = "window"  # layer by layer the FLOPs would jump out of the window from epoch to epoch; released: "argmax"
C.arch_choice = "best"  # highest lowest-bit accuracy inside the window; released: "last"
C.skip_flops = "exact"
