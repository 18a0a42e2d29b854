"""The layouts of transformers: the names of its files, which version 4 wrote and version 5 still writes, and those that
version 5 has in memory. It keeps queries, keys and values apart. Left is our side, as it stands in our files.
"""

from __future__ import annotations

from .table import Joint, Left, Rule
from .ways import FOLDED, QUERIES_VALUES, QUERY_THEN_KEYS_VALUES, one_more_axis, rows, shaped

BLOCK = "blocks.{i}"


def _attention(theirs: str, names: tuple[str, str, str], out: str, biases: str = "all") -> list[Rule]:
    """`biases`: all, or none of keys, or none."""
    q, k, v = (f"{theirs}.{name}" for name in names)
    rules: list[Rule] = [Joint((f"{BLOCK}.attn.qkv.weight",), tuple(f"{n}.weight" for n in (q, k, v)), rows(3))]
    if biases == "all":
        rules.append(Joint((f"{BLOCK}.attn.qkv.bias",), tuple(f"{n}.bias" for n in (q, k, v)), rows(3)))
    elif biases == "no keys":
        rules.append(Joint((f"{BLOCK}.attn.qkv.bias",), (f"{q}.bias", f"{v}.bias"), QUERIES_VALUES))
    return [*rules, (f"{BLOCK}.attn.proj.{{kind}}", f"{out}.{{kind}}")]


OLD, NEW = ("query", "key", "value"), ("q_proj", "k_proj", "v_proj")


def _pairs(ours: str, theirs: str) -> Rule:
    return (f"{ours}.{{kind}}", f"{theirs}.{{kind}}")


def _embeddings(at: str, positions: bool = True) -> list[Rule]:
    out: list[Rule] = [
        ("cls_token", f"{at}embeddings.cls_token"),
        ("dist_token", f"{at}embeddings.distillation_token"),
        _pairs("patch_embed.proj", f"{at}embeddings.patch_embeddings.projection"),
        Left(f"{at}embeddings.mask_token"),
    ]
    return [*out, ("pos_embed", f"{at}embeddings.position_embeddings")] if positions else out


def _heads(distilled: bool = False) -> list[Rule]:
    if distilled:
        return [_pairs("head", "cls_classifier"), _pairs("head_dist", "distillation_classifier")]
    return [_pairs("head", "classifier")]


def _blocks(at: str, new: bool, biases: str = "all") -> list[Rule]:
    """Of ViT, DeiT, MAE and BEiT; `at`: what stands before all names, such as "vit."."""
    return [*_block(_layer(at, new), new, biases), _pairs("norm", f"{at}layernorm")]


def _block(layer: str, new: bool, biases: str = "all") -> list[Rule]:
    inner = f"{layer}.attention" if new else f"{layer}.attention.attention"
    return [
        *_attention(inner, NEW if new else OLD, f"{layer}.attention.{'o_proj' if new else 'output.dense'}", biases),
        _pairs(f"{BLOCK}.norm1", f"{layer}.layernorm_before"),
        _pairs(f"{BLOCK}.norm2", f"{layer}.layernorm_after"),
        _pairs(f"{BLOCK}.mlp.fc1", f"{layer}.mlp.fc1" if new else f"{layer}.intermediate.dense"),
        _pairs(f"{BLOCK}.mlp.fc2", f"{layer}.mlp.fc2" if new else f"{layer}.output.dense"),
    ]


def _layer(at: str, new: bool) -> str:
    return f"{at}layers.{{i}}" if new else f"{at}encoder.layer.{{i}}"


def vit(at: str, new: bool, distilled: bool = False) -> list[Rule]:
    """ViT and DeiT."""
    return [*_embeddings(at), *_blocks(at, new), _pairs("pre_logits", f"{at}pooler.dense"), *_heads(distilled)]


def one_head(new: bool) -> list[Rule]:
    """DeiT of which only the class token is asked: its distillation token is a register, which has a place."""
    return [("reg_token", "deit.embeddings.distillation_token"), *vit("deit.", new)]


def mae(new: bool) -> list[Rule]:
    """The encoder out of a file that holds the decoder as well."""
    return [*vit("vit.", new), Left("decoder.{*rest}")]


def autoencoder(new: bool, layer: str) -> list[Rule]:
    """MAE with its decoder; `layer`: of the decoder. Version 5 writes other names into files than version 4 did."""
    names = {f"decoder_{part}": f"decoder.decoder_{part}" for part in ("embed", "norm", "pred")}
    return [
        ("mask_token", "decoder.mask_token"),
        ("decoder_pos_embed", "decoder.decoder_pos_embed"),
        *(_pairs(ours, theirs) for ours, theirs in names.items()),
        *(_of_decoder(rule) for rule in _block(layer, new)),
        *vit("vit.", new),
    ]


def _of_decoder(rule: Rule) -> Rule:
    """The same of the other stack of blocks."""
    match rule:
        case Joint(ours, theirs, way):
            return Joint(tuple(f"decoder_{name}" for name in ours), theirs, way)
        case Left():
            return rule
        case (ours, theirs):
            return f"decoder_{ours}", theirs


def beit(at: str, new: bool) -> list[Rule]:
    """The norm behind the mean of the patches is the pooler's; tables of relative positions lie in each layer."""
    layer = _layer(at, new)
    table = "relative_position_bias" if new else "attention.attention.relative_position_bias"
    return [
        *_embeddings(at),
        *_blocks(at, new, "no keys"),
        (f"{BLOCK}.attn.relative_position_bias_table", f"{layer}.{table}.relative_position_bias_table"),
        Left(f"{layer}.{table}.relative_position_index"),
        (f"{BLOCK}.ls1.gamma", f"{layer}.lambda_1"),
        (f"{BLOCK}.ls2.gamma", f"{layer}.lambda_2"),
        _pairs("fc_norm", f"{at}pooler.layernorm"),
        *_heads(),
    ]


def dinov2(at: str, new: bool, registers: bool, gated: bool) -> list[Rule]:
    layer = f"{at}encoder.layer.{{i}}"
    inner = f"{layer}.attention" if new else f"{layer}.attention.attention"
    places: list[Rule] = [("pos_embed", f"{at}embeddings.position_embeddings")]
    if registers:  # the class token has a place, the registers have none
        parts = (f"{at}embeddings.cls_token", f"{at}embeddings.position_embeddings")
        places = [Joint(("cls_token", "pos_embed"), parts, FOLDED), ("reg_token", f"{at}embeddings.register_tokens")]
    mlp: list[Rule] = [_pairs(f"{BLOCK}.mlp.fc1", f"{layer}.mlp.fc1"), _pairs(f"{BLOCK}.mlp.fc2", f"{layer}.mlp.fc2")]
    if gated and new:
        parts = (f"{layer}.mlp.gate_proj.{{kind}}", f"{layer}.mlp.up_proj.{{kind}}")
        mlp = [
            Joint((f"{BLOCK}.mlp.fc1.{{kind}}",), parts, rows(2)),
            _pairs(f"{BLOCK}.mlp.fc2", f"{layer}.mlp.down_proj"),
        ]
    elif gated:
        mlp = [
            _pairs(f"{BLOCK}.mlp.fc1", f"{layer}.mlp.weights_in"),
            _pairs(f"{BLOCK}.mlp.fc2", f"{layer}.mlp.weights_out"),
        ]
    return [
        *places,
        *_embeddings(at, positions=False),
        *_attention(inner, NEW if new else OLD, f"{layer}.attention.{'o_proj' if new else 'output.dense'}"),
        (f"{BLOCK}.ls1.gamma", f"{layer}.layer_scale1.lambda1"),
        (f"{BLOCK}.ls2.gamma", f"{layer}.layer_scale2.lambda1"),
        _pairs(f"{BLOCK}.norm1", f"{layer}.norm1"),
        _pairs(f"{BLOCK}.norm2", f"{layer}.norm2"),
        *mlp,
        _pairs("norm", f"{at}layernorm"),
    ]


def dinov3(layer: str, gated: bool, biases: str) -> list[Rule]:
    """`layer`: "layer.{i}" in files, "model.layer.{i}" in memory."""
    mlp: list[Rule] = [
        _pairs(f"{BLOCK}.mlp.fc1", f"{layer}.mlp.up_proj"),
        _pairs(f"{BLOCK}.mlp.fc2", f"{layer}.mlp.down_proj"),
    ]
    if gated:
        parts = (f"{layer}.mlp.gate_proj.{{kind}}", f"{layer}.mlp.up_proj.{{kind}}")
        mlp[0] = Joint((f"{BLOCK}.mlp.fc1.{{kind}}",), parts, rows(2))
    return [
        ("cls_token", "embeddings.cls_token"),
        ("reg_token", "embeddings.register_tokens"),
        Left("embeddings.mask_token"),
        _pairs("patch_embed.proj", "embeddings.patch_embeddings"),
        *_attention(f"{layer}.attention", NEW, f"{layer}.attention.o_proj", biases),
        (f"{BLOCK}.ls1.gamma", f"{layer}.layer_scale1.lambda1"),
        (f"{BLOCK}.ls2.gamma", f"{layer}.layer_scale2.lambda1"),
        _pairs(f"{BLOCK}.norm1", f"{layer}.norm1"),
        _pairs(f"{BLOCK}.norm2", f"{layer}.norm2"),
        *mlp,
        _pairs("norm", "norm"),
    ]


def swin(at: str, new: bool) -> list[Rule]:
    """They merge at the end of a stage, we at the beginning of the next."""
    ours, theirs = "layers.{s}.blocks.{i}", f"{at}encoder.layers.{{s}}.blocks.{{i}}"
    inner = f"{theirs}.attention" if new else f"{theirs}.attention.self"
    place = f"{inner}.relative_position_bias" if new else inner
    parts = tuple(f"{inner}.{name}.{{kind}}" for name in (NEW if new else OLD))
    return [
        *_swin_ends(at),
        Left(f"{place}.relative_position_index"),
        (f"{ours}.attn.relative_position_bias_table", f"{place}.relative_position_bias_table"),
        Joint((f"{ours}.attn.qkv.{{kind}}",), parts, rows(3)),
        _pairs(f"{ours}.attn.proj", f"{theirs}.attention.{'o_proj' if new else 'output.dense'}"),
        *_swin_blocks(ours, theirs, new),
    ]


def swinv2(at: str) -> list[Rule]:
    """The same names in files and in memory."""
    ours, theirs = "layers.{s}.blocks.{i}", f"{at}encoder.layers.{{s}}.blocks.{{i}}"
    inner = f"{theirs}.attention.self"
    return [
        *_swin_ends(at),
        Left(f"{inner}.relative_position_index"),
        Left(f"{inner}.relative_coords_table"),
        Joint((f"{ours}.attn.qkv.weight",), tuple(f"{inner}.{name}.weight" for name in OLD), rows(3)),
        (f"{ours}.attn.q_bias", f"{inner}.query.bias"),
        (f"{ours}.attn.v_bias", f"{inner}.value.bias"),
        (f"{ours}.attn.logit_scale", f"{inner}.logit_scale"),
        (f"{ours}.attn.cpb_mlp.{{*layer}}", f"{inner}.continuous_position_bias_mlp.{{*layer}}"),
        _pairs(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
        *_swin_blocks(ours, theirs, new=False),
    ]


def _swin_blocks(ours: str, theirs: str, new: bool) -> list[Rule]:
    return [
        _pairs(f"{ours}.norm1", f"{theirs}.layernorm_before"),
        _pairs(f"{ours}.norm2", f"{theirs}.layernorm_after"),
        _pairs(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1" if new else f"{theirs}.intermediate.dense"),
        _pairs(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2" if new else f"{theirs}.output.dense"),
    ]


def _swin_ends(at: str) -> list[Rule]:
    merging: list[Rule] = [
        (f"layers.{i + 1}.downsample.{{*rest}}", f"{at}encoder.layers.{i}.downsample.{{*rest}}") for i in range(3)
    ]
    return [
        _pairs("patch_embed.proj", f"{at}embeddings.patch_embeddings.projection"),
        _pairs("patch_embed.norm", f"{at}embeddings.norm"),
        Left(f"{at}embeddings.mask_token"),
        *merging,
        _pairs("norm", f"{at}layernorm"),
        _pairs("head.fc", "classifier"),
    ]


def clip(at: str) -> list[Rule]:
    """The image side of CLIP; `at`: "vision_model." in files. What is of the text is left out."""
    layer = f"{at}encoder.layers.{{i}}"
    return [
        Joint(("cls_token",), (f"{at}embeddings.class_embedding",), shaped(1, 1, -1)),
        Joint(("pos_embed",), (f"{at}embeddings.position_embedding.weight",), one_more_axis()),
        _pairs("patch_embed.proj", f"{at}embeddings.patch_embedding"),
        _pairs("norm_pre", f"{at}pre_layrnorm"),
        *_towers(layer),
        _pairs("norm", f"{at}post_layernorm"),
        _pairs("projection", "visual_projection"),
        Left(f"{at}embeddings.position_ids"),
        Left("text_model.{*rest}"),
        Left("text_projection.weight"),
        Left("logit_scale"),
    ]


def _towers(layer: str) -> list[Rule]:
    return [
        *_attention(f"{layer}.self_attn", NEW, f"{layer}.self_attn.out_proj"),
        _pairs(f"{BLOCK}.norm1", f"{layer}.layer_norm1"),
        _pairs(f"{BLOCK}.norm2", f"{layer}.layer_norm2"),
        _pairs(f"{BLOCK}.mlp.fc1", f"{layer}.mlp.fc1"),
        _pairs(f"{BLOCK}.mlp.fc2", f"{layer}.mlp.fc2"),
    ]


def siglip(at: str) -> list[Rule]:
    """The image side of SigLIP and SigLIP 2 of fixed sizes; its pool is torch's MultiheadAttention."""
    pool = f"{at}head"
    return [
        Joint(("pos_embed",), (f"{at}embeddings.position_embedding.weight",), one_more_axis()),
        _pairs("patch_embed.proj", f"{at}embeddings.patch_embedding"),
        *_towers(f"{at}encoder.layers.{{i}}"),
        _pairs("norm", f"{at}post_layernorm"),
        ("attn_pool.latent", f"{pool}.probe"),
        Joint(
            ("attn_pool.q.weight", "attn_pool.kv.weight"), (f"{pool}.attention.in_proj_weight",), QUERY_THEN_KEYS_VALUES
        ),
        Joint(("attn_pool.q.bias", "attn_pool.kv.bias"), (f"{pool}.attention.in_proj_bias",), QUERY_THEN_KEYS_VALUES),
        _pairs("attn_pool.proj", f"{pool}.attention.out_proj"),
        _pairs("attn_pool.norm", f"{pool}.layernorm"),
        _pairs("attn_pool.mlp.fc1", f"{pool}.mlp.fc1"),
        _pairs("attn_pool.mlp.fc2", f"{pool}.mlp.fc2"),
        _pairs("head", "classifier"),
        Left(f"{at}embeddings.position_ids"),
        Left("text_model.{*rest}"),
        Left("logit_scale"),
        Left("logit_bias"),
    ]


def cvt() -> list[Rule]:
    """The same names in files and in memory. How many batches the statistics are of is left out: they stay."""
    ours, theirs = "stage{s}.blocks.{i}", "cvt.encoder.stages.{s}.layers.{i}"
    inner, embedding = f"{theirs}.attention.attention", "cvt.encoder.stages.{s}.embedding.convolution_embeddings"
    looks: list[Rule] = []
    for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
        look = f"{inner}.convolution_projection_{long}.convolution_projection"
        looks += [
            Left(f"{look}.normalization.num_batches_tracked"),
            _pairs(f"{ours}.attn.conv_proj_{short}.conv", f"{look}.convolution"),
            _pairs(f"{ours}.attn.conv_proj_{short}.bn", f"{look}.normalization"),
            _pairs(f"{ours}.attn.proj_{short}", f"{inner}.projection_{long}"),
        ]
    return [
        ("stage{s}.cls_token", "cvt.encoder.stages.{s}.cls_token"),
        _pairs("stage{s}.patch_embed.proj", f"{embedding}.projection"),
        _pairs("stage{s}.patch_embed.norm", f"{embedding}.normalization"),
        *looks,
        _pairs(f"{ours}.attn.proj", f"{theirs}.attention.output.dense"),
        _pairs(f"{ours}.norm1", f"{theirs}.layernorm_before"),
        _pairs(f"{ours}.norm2", f"{theirs}.layernorm_after"),
        _pairs(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
        _pairs(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
        _pairs("norm", "layernorm"),
        *_heads(),
    ]
