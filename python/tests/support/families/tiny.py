"""A tiny model of every MoE `model_type` that transformers ships."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

VOCABULARY = 64
LENGTH = 12

# The sizes of a small model, under the names that configurations use.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "intermediate_size": 24,
    "ffn_hidden_size": 24,
    "moe_intermediate_size": 24,
    "expert_ffn_hidden_size": 24,
    "shared_expert_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "share_expert_dim": 24,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "depth": 1,
    "num_attention_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "use_cache": False,
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_token_id": 60,
    "video_token_id": 61,
    "image_token_index": 60,
    "audio_token_id": 62,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_heads": 2,
    "linear_head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 2,
    "index_topk": 4,
    "index_head_dim": 8,
    "index_n_heads": 2,
}

# Further keys that a family's checks need, or that make it a MoE model.
_SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
_OWN: dict[str, dict[str, Any]] = {
    "beam": _SPARSE,
    "dbrx": {
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
    },
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "head_dim": 8},
    "doge": {"is_moe": True, "num_experts": 16},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_vision_encoder": {
        **_SPARSE,
        "adapter_in_dim": 32,
        "adapter_out_dim": 32,
        "mlp_bias": False,
    },
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [24, 20],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [1, 1, 2],
        },
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {"enable_moe_block": True, "vocab_size_per_layer_input": VOCABULARY},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe"]},
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 1.0,
            "mrope_section": [1, 1, 2],
        },
    },
    "longcat_flash": {"zero_expert_num": 4},
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "glm5_next_text": {
        "qk_rope_head_dim": 0,
        "head_dim": 0,
        "index_kpool": 2,
        **_SPARSE,
        "swiglu_limit": 1.0,
    },
    "inkling2": {"vision_config": {"text_hidden_size": 32}},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
        "num_dense_layers": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "muse_spark_audio": {"num_hidden_layers": 4, "out_hidden_size": 32},
    "muse_spark_text": {"moe_hidden_size": 16},
    "nemotron3_5_transcribe_word_timestamp": {"blank_token_id": 3},
    "nemotron3_diarization": {"head_config": {"audio_hidden_size": 32}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 24},
    "vitpose_backbone": {"image_size": 32, "patch_size": 16, "num_experts": 2, "part_features": 8},
    "step3p5": {"mlp_layer_types": ["dense", "sparse"], "swiglu_limits": [None, 1.0]},
    "zaya": {"num_experts_per_tok": 1},
}


# Configurations that cannot be built without arguments: gemma4_assistant's forbids experts, and
# nougat's consists of an encoder and a decoder without experts.
_WITHOUT_DEFAULTS = ("gemma4_assistant", "nougat")


# The families of transformers 4 that are tested.
_OF_4 = (
    "aria_text",
    "dbrx",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "ernie4_5_moe",
    "flex_olmo",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "jamba",
    "llama4_text",
    "minimax",
    "mixtral",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_vl_moe_text",
)


if transformers.__version__.startswith("4."):
    _OWN["jamba"] = {"use_mamba_kernels": False}
    _OWN["qwen3_vl_moe_text"] = {
        "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]}
    }


class NotBuiltError(Exception):
    """No tiny model of a family can be built; the text has the reason."""


def moe_model_types() -> list[str]:
    """Returns the model types whose configuration, or a part of it, mentions experts.

    Types whose configuration cannot be built are included, because it may mention experts.
    """
    if transformers.__version__.startswith("4."):
        return list(_OF_4)
    return [name for name in CONFIG_MAPPING_NAMES if _speaks_of_experts(name)]


def _speaks_of_experts(model_type: str) -> bool:
    if model_type in _WITHOUT_DEFAULTS:
        return False
    try:
        config = CONFIG_MAPPING[model_type]()
    except Exception:  # any error of a new family without arguments
        return True
    keys = [key for part in (config, *_parts(config)) for key in vars(part)]
    return any(re.match("(?!_).*(expert|moe)", key) for key in keys)


def _parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    return [part for part in vars(config).values() if isinstance(part, PretrainedConfig)]


def tiny_config(model_type: str) -> PretrainedConfig:
    """Returns a configuration of a few thousand parameters, with experts."""
    config = CONFIG_MAPPING[model_type](**_small(CONFIG_MAPPING[model_type]))
    config._experts_implementation = "eager"
    return config


def _small(config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """Returns the arguments that make a configuration and its parts small."""
    known = {*inspect.signature(config_class).parameters, *config_class.attribute_map}
    own = _OWN.get(config_class.model_type, {})
    given = {name: value for name, value in _SIZES.items() if name in known} | own
    for name, part in vars(config_class()).items():
        if isinstance(part, PretrainedConfig):
            given[name] = _small(type(part)) | {"model_type": part.model_type} | own.get(name, {})
    return given


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Returns the class that a user would train: with a head if there is one."""
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, PreTrainedModel)
        and value.__module__ == module.__name__
        and getattr(value, "config_class", None) is type(config)
        and not value.__name__.endswith("PreTrainedModel")
    ]
    heads = (".*ForCausalLM", ".*ForConditionalGeneration", ".*For.*", ".*Model", ".*")
    return next(v for head in heads for v in classes if re.fullmatch(head, v.__name__))


# Families whose own code computes a part in float32, whatever the model's type is.
_FLOAT32 = (
    "beam",
    "inkling2",
    "jetmoe",
    "inkling2_text",
    "muse_spark",
    "muse_spark_text",
    "nemo_speechlm",
    "nemotron_h",
    "nemotron_h_omni",
    "openai_privacy_filter",
)


def tiny_model(model_type: str) -> PreTrainedModel:
    """Builds a model with random weights, the same each time: in float64 if its code allows.

    Raises:
        NotBuiltError: transformers refuses these sizes.
    """
    torch.manual_seed(1)
    try:
        config = tiny_config(model_type)
        model = model_class(config)(config)
    except Exception as error:  # any error of a new family with other sizes
        said = str(error).strip().splitlines() or [""]
        raise NotBuiltError(f"{type(error).__name__}: {said[0][:200]}") from error
    for parameter in model.parameters():
        if parameter.ndim > 1:  # some families leave weights uninitialised
            nn.init.normal_(parameter, std=0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):  # selection biases are initialised to zeros
            buffer.uniform_(-0.1, 0.1)
        elif name.endswith("tid2eid"):  # a table of each token's experts, initialised to zeros
            buffer.copy_(torch.rand(len(buffer), 8).argsort(1)[:, : buffer.shape[1]])
    # The blocks of transformers 4 route in float32.
    single = model_type in _FLOAT32 or transformers.__version__.startswith("4.")
    return model.to(torch.float32 if single else torch.float64).train()


def inputs(model_type: str, seed: int) -> dict[str, torch.Tensor]:
    """Returns a batch of tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (2, LENGTH), generator=generator)
    if model_type == "qwen3_omni_moe_talker_text":
        return {"inputs_embeds": torch.randn(2, LENGTH, 32, generator=generator).double()}
    if model_type == "dots3_note_vision_encoder":
        patches = torch.randn(16, 3 * 14 * 14, generator=generator).double()
        return {"pixel_values": patches, "grid_thw": torch.tensor([[1, 4, 4]])}
    return {"input_ids": ids}
