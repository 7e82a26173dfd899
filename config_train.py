"""Stage 2 settings, CDT: `python train.py [--preset NAME[,NAME]] [--setting value ...]`

Every line below is a default. It follows the paper (Fu et al., DAC 2021); where the authors' released code differs, the
comment says so and the preset `released` sets it. `python train.py --help` lists types and legal values;
instantnet/settings/presets.py holds the presets.

    command                              device        time     accuracy per bit-width
    python train.py --preset digits      2 CPU cores   see README.md, "What the demo prints"
    python train.py                      one GPU       CIFAR-100, 200 epochs; not measured yet
                                         (published: 73.33 75.94 75.53 75.63 75.55 % at 4, 8, 12, 16, 32 bit)
"""

from instantnet.settings.stages import TrainSettings

C = TrainSettings()

# run
C.seed = 12345  # as released
C.save = "ckpt/finetune"  # weights.pt, checkpoint.pt, logs.txt, metrics.jsonl, TensorBoard events
C.load_path = "ckpt/search"  # the architecture to train
C.pretrain = None
C.eval_only = False
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
C.nepochs = 200
C.eval_epoch = 1
C.max_steps = 0  # whole epochs
C.train_accuracy = False  # costs a pass over the images; low, it shows that the network did not learn them

# data
C.dataset = "cifar100"
C.dataset_path = "data"
C.num_classes = None  # the data set's own
C.image_height = 32
C.image_width = 32
C.crop_padding = 4  # CIFAR recipe
C.flip = True
C.normalisation = "measured"  # released: deviations of CIFAR that are averages over images
C.images_per_class = 0  # all; a few, to see what a method does where a network can learn them by heart
C.val_portion = 0.0  # test images are set apart by whoever took them; 0.2 is usual
C.batch_size = 128
C.shuffle = True  # released: the same order every epoch
C.drop_last = False  # released: True

# network
C.network = "derived"  # the architecture of load_path; resnet38, resnet74, mobilenet_v2: what the paper compares with;
# torchvision:NAME, timm:NAME, path/to/file.py:function: docs/your_network.md
C.keep_float = []  # the first and the last layer, as `quantize_ends` says
C.quantize_residual = False  # the paper is silent; integer kernels need it
C.width_mult = 1.0  # of the paper's: thinner for scaled-down runs
# of the derived network: must have as many layers as the architecture of load_path
C.num_layer_list = [1, 4, 4, 4, 4, 4, 1]
C.num_channel_list = [16, 24, 32, 64, 112, 184, 352]
C.stride_list = [1, 1, 2, 2, 1, 2, 1]
C.stem_channel = 16
C.stem_stride = 1
C.header_channel = 1504

# precision
C.num_bits_list = [4, 8, 12, 16, 32]  # one bit-width alone = an independently trained network
C.quantizer = "minmax"  # the paper's; docs/method.md compares the others
C.quantize_ends = False  # released; the paper is silent
C.range_scope = "bit_width"  # released: "shared"
C.range_momentum = 0.1  # released: 0.9
C.bits_of = []  # every layer at the network's bit-width
C.update_bn = True
C.recalibration = "own"  # released: "all"

# cascade distillation
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

# optimiser
C.opt = "sgd"
C.lr = 0.025
C.momentum = 0.9
C.weight_decay = 5e-4
C.betas = [0.5, 0.999]
C.grad_clip = 5.0
C.clip_when = "always"  # released: not in the joint step, which is the default one
C.lr_schedule = "cosine"
C.lr_ahead = False  # as released: the search alone is an epoch ahead
C.learning_rate_min = 1e-3
C.decay_epoch = 100
C.lr_decay = 0.97
C.milestones = [80, 120, 160]
C.gamma = 0.1
C.warmup_epochs = 0  # neither paper nor release
C.ema = 0.0  # neither paper nor release; 0.999 is common
