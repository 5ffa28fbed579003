"""What the trainings read: the sections generator, sft, item_text, think, ctr and grpo of a config."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from aigq.config_base import Section


class GeneratorConfig(Section):
    """The language model. `base: null` builds a small Qwen3 with a tokenizer of the domain."""

    base: str | None = Field(None, description="a model folder or name to fine-tune instead of building one")
    start: Path | None = Field(
        None,
        description="model folder to train on from: the starter, or RUN/models/SYSTEM of the day before, "
        "also after RL; sizes and vocabulary are its own, and only what validates better replaces it",
    )
    vocab_size: int = Field(
        8192,
        ge=300,
        description="largest domain BPE vocabulary, without special tokens; it ends earlier when every query "
        "of k users is one token",
    )
    hidden_size: int = Field(256, ge=16, description="width")
    layers: int = Field(6, ge=1, description="depth")
    heads: int = Field(8, ge=1, description="attention heads")
    kv_heads: int = Field(8, ge=1, description="key and value heads")
    intermediate_size: int = Field(704, ge=16, description="width of the feed-forward part")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention weights in training")
    attention_bias: bool = Field(
        False,
        description="biases of attention queries and keys: a new model learns in fewer steps at which "
        "distance to look",
    )
    init_from_encoder: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the variance of token embeddings that starts from the text encoder's; the "
        "rest is random, and tells names apart that mean nearly the same",
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads: {self.heads} is no multiple of kv_heads, {self.kv_heads}")
        if max(self.hidden_size // self.heads, 16) % 2:
            raise ValueError(
                f"hidden_size: {self.hidden_size} over {self.heads} heads is an odd width a head"
            )
        return self


class Adapters(Section):
    """Low-rank adapters (LoRA) in place of all weights; the rows of special tokens are trained with them."""

    lora_rank: int | None = Field(
        None, ge=1, description="train low-rank adapters of this rank; null: all weights"
    )
    lora_targets: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="the layers that get adapters, such as [q_proj, v_proj]"
    )


class SftConfig(Adapters):
    """Supervised training on list labels. Paper section 3.3; method.md section 4."""

    labels: Literal["log_order", "ranked"] = Field(
        "ranked",
        description="log_order: the plain SFT row; ranked: clicked first, then the ranker's order (IL-SFT)",
    )
    ranker: dict[str, float] = Field(
        {"ranker": 1.0},
        description="who orders labels in bootstrap mode: recall channels, and what each one's scores are "
        "multiplied by before they are added ({personal: 1, popular: 60}: own counts and shop shares)",
    )
    clicked_order: Literal["ranker", "random"] = Field(
        "ranker", description="order of the clicked queries of one ranked list"
    )
    order_noise: float = Field(
        2.0,
        ge=0,
        description="places by which the queries of a ranked training list are moved at random while the "
        "targets keep their order, so that a list recovers from what it passed over; 0: as they are",
    )
    tail: int = Field(
        30,
        ge=0,
        description="fill ranked labels up to this length, and no longer than samples.list_length, with the "
        "ranker's top-K; 0: no tail",
    )
    tail_weight: float = Field(
        1.0, ge=0, description="loss weight of a token of the ranker's tail; a clicked one has 1"
    )
    max_samples: int | None = Field(None, ge=1, description="train on a seeded sample of so many; null: all")
    imitation_epochs: float = Field(
        0.0,
        ge=0,
        description="passes over the ranker's own lists before the labels: teaches to copy from the prompt",
    )
    imitation_extra: int = Field(
        0,
        ge=0,
        description="more moments to imitate at, without a target, where few samples have a history; "
        "Think gives reasons for these lists, too",
    )
    imitation_renamed: float = Field(
        0.5, ge=0, le=1, description="share of the imitated lists whose queries swap names: pure copying"
    )
    imitation_max_steps: int | None = Field(None, ge=1, description="max_steps of the imitation")
    imitation_learning_rate: float = Field(2e-3, gt=0, description="learning_rate of the imitation")
    epochs: float = Field(2.0, gt=0, description="passes over the training samples")
    max_steps: int | None = Field(
        None, ge=1, description="stop after so many optimiser steps, the schedule fitted to them"
    )
    batch_size: int = Field(16, ge=1, description="lists per optimiser step")
    learning_rate: float = Field(
        1e-3, gt=0, description="peak; 1e-3 from scratch, 1e-5..2e-5 full, 1e-4 LoRA"
    )
    warmup_fraction: float = Field(
        0.03, ge=0, lt=1, description="share of the steps with a rising learning rate"
    )
    weight_decay: float = Field(0.05, ge=0, description="AdamW")
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    lists_at_once: int | None = Field(
        None,
        ge=1,
        description="lists per forward pass of a process; only memory depends on it; null: its whole share",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute layers again in the backward pass instead of keeping what they computed"
    )
    router_loss: float = Field(
        0.0, ge=0, description="weight of the load-balancing loss of a mixture of experts; 0: none"
    )
    eval_every: int = Field(500, ge=1, description="optimiser steps between validations and checkpoints")
    eval_samples: int = Field(256, ge=1, description="validation samples whose lists are generated each time")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the computation, and of weights that adapters leave alone; auto: bfloat16 where the "
        "GPU has it",
    )

    def llms(self) -> set[str]:
        """The names in channels.llms that order its labels."""
        return {name.removeprefix("zero_shot:") for name in self.ranker if name.startswith("zero_shot:")}

    @model_validator(mode="after")
    def _imitates_who_orders(self) -> Self:
        if self.labels == "log_order" and self.imitation_epochs:
            raise ValueError(
                "labels: in log order, no ranker to imitate; set imitation_epochs to 0, or labels to ranked"
            )
        return self


class ItemTextConfig(Section):
    """Item-to-text: a model with the sizes of `generator` reads an item and writes a query. Paper 3.1."""

    held_out: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="share of the items kept from training for validation, and as many for the comparison",
    )
    pairs_per_item: int = Field(
        8, ge=1, description="training pairs drawn from the clicks of one item at most"
    )
    asked: int = Field(
        5, ge=0, description="queries that led to the item before, read with its title; 0: the title alone"
    )
    cold: float = Field(0.5, ge=0, le=1, description="share of the training pairs that show none of them")
    epochs: float = Field(3.0, gt=0, description="passes over the pairs")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimiser steps")
    batch_size: int = Field(64, ge=1, description="pairs per optimiser step")
    learning_rate: float = Field(1e-3, gt=0, description="peak; falls to 0 on a cosine")
    eval_every: int = Field(200, ge=1, description="optimiser steps between validations and checkpoints")
    eval_samples: int = Field(
        512, ge=1, description="pairs of held-out items that each validation writes for"
    )


class ThinkConfig(Section):
    """AIGQ-Think: interest points, reasoning, how it is trained. Paper section 3.3; method.md section 4."""

    from_direct: bool = Field(
        True, description="think_il_sft starts from direct_il_sft's imitation instead of one of its own"
    )
    links: int = Field(2, ge=1, description="a label query is linked to at most so many behaviours")
    neighbours: int = Field(
        5, ge=0, description="a behaviour explains the queries among whose nearest co-click neighbours it is"
    )
    min_cosine: float = Field(
        0.6, ge=-1, le=1, description="a behaviour explains a query at least this close in meaning"
    )
    teacher: str = Field(
        "template", description="who writes rationales: template (offline), or a name in channels.llms"
    )
    generated_by: str | None = Field(
        None,
        description="a name in channels.llms that adds labels where sft.tail leaves room; null: nobody",
    )
    without_rationale: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the training lists without reasoning, which decoding may leave out; 1: all",
    )
    rationale_tokens: int = Field(64, ge=8, description="longest reasoning, in training and in decoding")
    max_points: int = Field(8, ge=1, description="most interest points of one output")
    max_triggers: int = Field(8, ge=1, description="most behaviours that one point names")
    imitation_max_steps: int | None = Field(
        None,
        ge=1,
        description="after Direct's imitation so many steps on the ranker's lists in Think's form; "
        "null: none",
    )
    imitation_renamed: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of those lists whose queries swap names, which leaves nothing to link them to "
        "behaviours; null: as in sft",
    )
    imitation_learning_rate: float | None = Field(
        None, gt=0, description="learning_rate of that imitation; null: as in sft"
    )
    max_steps: int | None = Field(None, ge=1, description="steps on the labels; null: as in sft")
    learning_rate: float = Field(5e-4, gt=0, description="on the labels: more is new than for Direct")

    def llms(self) -> set[str]:
        """The names in channels.llms that write for its training."""
        return {name for name in (self.teacher, self.generated_by) if name not in (None, "template")}


class CtrConfig(Section):
    """The CTR model: whether a shopper wants a query. method.md sections 3 and 5 (r_CTR)."""

    start: Path | None = Field(
        None, description="model folder of an earlier CTR model to train on from (daily training)"
    )
    max_samples: int = Field(
        6000, ge=1, description="trained on so many of the latest training samples or exposures"
    )
    profile: list[str] = Field([], description="profile fields of the users table that are features")
    behaviours: int = Field(32, ge=1, description="most recent behaviours that a candidate looks at")
    dim: int = Field(32, ge=4, description="width of projected texts")
    hidden: int = Field(64, ge=4, description="width of the layer over all features")
    heads: int = Field(
        4, ge=2, description="output heads, each trained on its own draw of moments: they tell uncertainty"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="of the layer over all features")
    epochs: float = Field(4.0, gt=0, description="passes over the training samples at most")
    batch_size: int = Field(32, ge=1, description="moments per optimiser step, each with all its candidates")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW; falls linearly to 0")
    weight_decay: float = Field(0.01, ge=0, description="AdamW")
    eval_every: int = Field(100, ge=1, description="optimiser steps between validations and checkpoints")
    eval_samples: int = Field(
        1500, ge=1, description="moments drawn from the validation days, and as many from the test days"
    )
    patience: int = Field(4, ge=1, description="stop after so many validations without a better log-loss")
    bound_z: float = Field(
        1.0,
        ge=0,
        description="the lower bound is so many deviations of the heads below their mean",
    )
    auc_floor: float = Field(
        0.6, ge=0.5, le=1, description="RL refuses to start when AUC on later days is below this"
    )


class RewardWeights(Section):
    """w_m of each kind of reward of a query."""

    ctr: float = Field(1.0, ge=0, description="predicted click probability, scaled and clipped")
    rouge: float = Field(1.0, ge=0, description="ROUGE-L with the reference of the same slot")
    length: float = Field(0.2, ge=0, description="no truncation, no bloat")


class GrpoConfig(Adapters):
    """IL-GRPO: an advantage per query and one per list. Paper section 3.4; method.md section 5."""

    trainer: Literal["loop", "trl"] = Field(
        "loop", description="loop: our own, for one process; trl: the same loss in TRL, for large models"
    )
    steps: int = Field(100, ge=1, description="optimiser steps; rollouts are fresh at each")
    prompts: int = Field(32, ge=1, description="prompts per step")
    group: int = Field(8, ge=2, description="G, rollouts per prompt")
    prompts_at_once: int = Field(8, ge=1, description="prompts per forward pass; only memory depends on it")
    learning_rate: float = Field(1e-4, gt=0, description="peak; 1e-4 for a small model, 1e-6 for a large one")
    rollouts: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="who draws the rollouts; vllm (extra vllm): an engine beside the policy that takes its "
        "weights over before each step, for one process",
    )
    rollout_options: dict[str, Any] = Field(
        {}, description="further arguments of its vllm.LLM, such as gpu_memory_utilization"
    )
    temperature: float = Field(1.0, gt=0, description="of the rollouts")
    top_k: int = Field(100, ge=1, description="of the rollouts")
    weights: RewardWeights = RewardWeights()
    ctr_cap: float = Field(1.0, gt=0, description="beta, the largest CTR reward")
    ctr_bound: Literal["mean", "lower"] = Field(
        "mean", description="mean: p_hat; lower: its lower confidence bound, against reward hacking"
    )
    list_weight: float = Field(0.5, ge=0, description="lambda, weight of the list's advantage")
    credit: Literal["own", "suffix_dcg", "list"] = Field(
        "own",
        description="a query's own reward (IL-GRPO), the discounted ones from its slot on, the list's",
    )
    match: Literal["position", "set"] = Field(
        "position", description="reference of a query: the one of its slot, or the best one-to-one assignment"
    )
    norm: Literal["sum_then_normalise", "normalise_then_sum"] = Field(
        "sum_then_normalise", description="normalise the summed reward, or each kind of reward (GDPO)"
    )
    ratio: Literal["token", "query", "sequence"] = Field("token", description="level of the importance ratio")
    epsilon: float = Field(1e-3, gt=0, description="added to the variance of a group, inside the root")
    clip_low: float = Field(0.2, gt=0, lt=1, description="eps_low")
    clip_high: float = Field(0.28, gt=0, description="eps_high, for tokens of high entropy")
    entropy_quantile: float = Field(0.8, ge=0, le=1, description="where high entropy begins in a batch")
    entropy_bonus: float = Field(0.01, ge=0, description="weight of the entropy at first, falls to 0")
    reward_clip: float = Field(10.0, gt=0, description="rewards are clipped to +- this")
    advantage_clip: float = Field(2.0, gt=0, description="advantages are clipped to +- this")
    difficulty: tuple[float, float] = Field(
        (0.1, 0.95),
        description="a prompt counts if its mean score, as a share of the best, is inside",
    )
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    eval_every: int = Field(25, ge=1, description="steps between validations and checkpoints")
    collapse: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="stop when lists name less than this share of the first step's categories",
    )
