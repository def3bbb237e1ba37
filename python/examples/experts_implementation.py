"""Runs the engine's experts inside transformers, in one process.

`import autoep` registers the name "autoep" with transformers. Pass it to `from_pretrained` as
`experts_implementation`, or call `model.set_experts_implementation("autoep")` on a loaded model.

    python experts_implementation.py                # a small Qwen3-MoE with random weights
    python experts_implementation.py FOLDER_OR_NAME # your own model
"""

from __future__ import annotations

import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import autoep  # noqa: F401

SMALL = dict(
    vocab_size=256,
    hidden_size=256,
    moe_intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=8,
    num_experts=16,
    num_experts_per_tok=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def main(name: str | None) -> None:
    """Runs one batch forward and backward with transformers' experts and with the engine's."""
    torch.manual_seed(0)
    if name is None:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SMALL))
    else:
        model = AutoModelForCausalLM.from_pretrained(name, experts_implementation="autoep")
    batch = torch.randint(model.config.get_text_config().vocab_size, (4, 256))
    for implementation in ("grouped_mm", "autoep"):
        model.set_experts_implementation(implementation)
        started = time.perf_counter()
        for _ in range(3):
            model.zero_grad()
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
        seconds = (time.perf_counter() - started) / 3
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        print(f"{implementation:<11} loss {loss:.6f}  gradient norm {norm:.6f}  {seconds:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
