"""Every setting there is, with its default. A recipe changes what it must and says why."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """All settings, to be changed by a recipe."""
    config = ConfigDict()
    config.seed = 0  # initialisation, data order and tie breaking all follow from it

    config.init_from = ""  # weights to start from: a workdir, an export, or a file of open_clip, OpenAI, Hugging Face

    config.data = ConfigDict()
    config.data.source = "scenes"  # scenes: drawn on the fly; csv: image files; array_record: prepared shards
    config.data.train = ""  # a CSV file or a prepared directory, or several with commas between (~ is the home folder)
    config.data.weights = ()  # how often to draw from each of several; empty: in proportion to their sizes
    config.data.validation = ""  # the same for validation; empty: none (prepared directory: its validation split)
    config.data.image_key = "filepath"  # csv: the column of image paths (open_clip's name; the release's is image)
    config.data.caption_key = "title"  # csv: the column of captions (open_clip's name), or several: "short,long"
    config.data.delimiter = ""  # csv: between columns; empty: by the suffix, a comma for .csv and a tab for .tsv
    config.data.train_examples = 65_536  # scenes: how many to draw before an epoch repeats
    config.data.validation_examples = 1024  # scenes: how many held-out ones; 0: none
    config.data.crop = "random"  # open_clip's training view; "center": CLIP's and the release's, resized and cut
    config.data.crop_scale = (0.9, 1.0)  # random crop, as a share of the image's area (open_clip's default)
    config.data.flip = 0.0  # probability of mirroring an image left and right
    config.data.color_jitter = (0.0, 0.0, 0.0, 0.0)  # largest change of brightness, contrast, saturation, hue
    config.data.auto_augment = ""  # or "rand_augment" or "auto_augment"
    config.data.threads = 4  # decoding threads of each worker (or of the main process)
    config.data.workers = -1  # decoding processes; 0: threads of the main process only; -1: all cores but two
    config.data.max_pixels = 2**26  # an image of more is unreadable, before it is decoded; WebP and AVIF count twice
    config.data.max_unreadable_fraction = 0.01  # stop when more than this share of the records cannot be read

    config.model = ConfigDict()
    config.model.name = "ViT-B-32"  # a row of rankclip_jax/models/presets.py
    config.model.sizes = ConfigDict()  # of another model, as in any run's config.json; empty: the preset's
    config.model.image_size = 0  # side of the images in pixels; 0: the preset's own
    config.model.pixel_mean = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]; CLIP's (SigLIP: 0.5 each)
    config.model.pixel_std = (0.26862954, 0.26130258, 0.27577711)  # the same
    config.model.pooling = "class_token"  # of the image transformer; or "mean", of its patches, without such a token
    config.model.activation = "quick_gelu"  # CLIP's; or "gelu", as open_clip's newer models
    config.model.remat = "cheap"  # in the backward pass: all but matrix products; or "blocks", "nothing"
    config.model.attention = "auto"  # cuDNN's flash attention where there is one and rows are long; "cudnn", "xla"
    config.model.patch_dropout = 0.0  # share of an image's patches left out of training steps (FLIP); ViT only
    config.model.frozen = ""  # a tower that does not learn: "vision" (LiT) or "text"
    config.model.scan_layers = placeholder(bool)  # compile one layer and loop; None: on TPUs, and GPUs from 13
    config.model.initial_logit_scale = 1 / 0.07  # the multiplier that the similarities start with (siglip: 10)
    config.model.dtype = "float32"  # compute type; or "bfloat16", or "auto": the faster of both on the device

    config.objective = ConfigDict()
    config.objective.name = "rankclip"  # a row of rankclip_jax/objectives/__init__.py
    config.objective.variant = "exact"  # of the ranking terms: exact, or released (fades out as the scale grows)
    config.objective.lambda_cross = 1.0  # weight of the cross-modal ranking term
    config.objective.lambda_in = 1.0  # weight of the in-modal ranking term
    config.objective.ranking_scale = "learned"  # or "learned_without_gradient", or a number such as "14.3"
    config.objective.position_decay = False  # weigh the k-th place of a list by 1 / log(k + 1)
    config.objective.list_size = 0  # rank each row against so many random columns; 0: all
    config.objective.chunk_size = 0  # rows a device handles at once; 0: by a memory budget
    config.objective.precision = "auto"  # of similarities: highest, f16_x3, tf32_x3, bf16_x3, bf16_x6
    config.objective.second_view = False  # contrast each image and text with an augmented view of itself too
    config.objective.cyclic = (0.25, 0.25)  # cyclip: weights of cross- and in-modal consistency (its paper's)
    config.objective.soft_fraction = 0.5  # softclip: share of the soft targets
    config.objective.relation_weight = 0.5  # softclip: weight of the term between negatives
    config.objective.distillation_ramp = (0.0, 0.5, 1.0)  # self_distillation: share of soft targets, as in ramp
    config.objective.target_scale = "14.3"  # softclip, self_distillation: sharpness of soft targets, as ranking_scale
    config.objective.ramp = (0.0, 2.0, 2 / 3)  # ranking weight: from, to, reached at this share of training

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "lion", "adafactor", "muon"
    config.optimizer.learning_rate = 5e-4  # the peak, reached at the end of the warmup
    config.optimizer.schedule = "cosine"  # after the warmup; or "constant", "warmup_stable_decay"
    config.optimizer.warmup_fraction = 0.02  # of the run: give either a share
    config.optimizer.warmup_steps = 0  # or steps, and leave the other 0
    config.optimizer.final_fraction = 0.0  # of the peak, at the end of a cosine or a decay
    config.optimizer.decay_fraction = 0.2  # warmup_stable_decay: the part of the run over which the rate falls
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.2  # decoupled; not on biases, norms, the class embedding, the logit scale
    config.optimizer.gradient_clip = 0.0  # largest global norm; 0: no clipping
    config.optimizer.rate_overrides = ()  # (pattern, factor) pairs, such as (("vision/.*blocks/[0-5]/", 0.1),)
    config.optimizer.decay_overrides = ()  # (pattern, weight decay) pairs, of parameters' names as above
    config.optimizer.mu_dtype = "float32"  # type of first moments; or "bfloat16", half their memory
    config.optimizer.ema_decay = 0.0  # keep a moving average of the weights with this factor, such as 0.999; 0: none

    config.train = ConfigDict()
    config.train.global_batch_size = 1024  # pairs a step, over all devices of all hosts
    config.train.accumulation = 1  # micro-batches that the towers take a batch in; the loss stays the whole batch's
    config.train.steps = 0  # length of the run: give either steps
    config.train.epochs = 0  # or epochs, and leave the other 0
    config.train.on_nonfinite = "stop"  # of a loss or gradient; or "skip" the update, or "rollback" a checkpoint
    config.train.max_nonfinite_steps = 10  # skip, rollback: stop after so many such steps

    config.mesh = ConfigDict()  # devices in a grid: a batch is split over all of it
    config.mesh.replica = 1  # copies of everything, across slow links
    config.mesh.data = -1  # the same inside them; -1: as many as the others leave
    config.mesh.fsdp = 1  # devices that share one copy of weights and optimiser state
    config.mesh.overrides = ()  # (pattern, dimension) pairs: how arrays of these names are split; -1: not at all

    config.processes = ConfigDict()
    config.processes.start_seconds = 300  # in which all processes of a run must have started
    config.processes.heartbeat_seconds = 30  # after which a process that is silent is given up, and the run ends
    config.processes.hang_seconds = 3600.0  # that a step, a batch, a save or an evaluation may take; 0: any

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.every_minutes = 0.0  # as well; 0: by steps alone
    config.checkpoint.patience_seconds = 5.0  # after a signal, before an evaluation or a wait for data is broken off
    config.checkpoint.deadline_seconds = 240.0  # after a signal, to leave with what was saved before
    config.checkpoint.max_save_failures = 5  # of saves that cannot be written, after which the run stops
    config.checkpoint.keep = 3  # the newest ones
    config.checkpoint.keep_every_steps = 0  # and besides them one every so many steps, for good; 0: none

    config.logging = ConfigDict()
    config.logging.every_steps = 50
    config.logging.profile_steps = (0, 0)  # trace from one step to another, for XProf; (0, 0): none
    config.logging.wandb = ""  # Weights & Biases: "online", or "offline", to be sent later with: wandb sync

    config.evaluation = ConfigDict()
    config.evaluation.every_steps = 0  # during training; 0: only at the end
    config.evaluation.max_examples = 10_000  # of the validation set; retrieval is reported over these
    config.evaluation.weights = "latest"  # or "average": the moving average that config.optimizer.ema_decay keeps
    return config
