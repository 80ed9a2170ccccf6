"""Random Llamas in the format of Hugging Face, for engines that read that: no download, any size.

The counterpart of `tiny_gguf`. Their text is noise, so where the next node needs a label, constrain the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_fmware_workers.engines.words import WORDS

__all__ = ["TinyLlama"]

END = "<end>"
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}<assistant>"
SHARPNESS = 20  # else all tokens are about equally likely, and greedy decoding is a matter of luck


@dataclass(frozen=True, slots=True)
class TinyLlama:
    """Shape of a random Llama."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    kv_heads: int = 4
    inner_width: int = 256  # of the feed-forward part
    context_tokens: int = 16384
    vocabulary: int = 0  # tokens; 0 for those of the tokenizer, some 1,500
    seed: int = 0

    def write(self, directory: Path, *, weights: bool = True) -> Path:
        """Write configuration, tokenizer and, if wanted, weights in bfloat16; return the directory.

        With weights it never ends by itself: the first dimension of every token is the same, and only the output row
        of the end token looks at it, with a large negative weight. A grammar still can demand that token.
        """
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = _tokenizer()
        tokenizer.save_pretrained(directory)
        config = LlamaConfig(
            vocab_size=max(self.vocabulary, len(tokenizer)),
            hidden_size=self.width,
            intermediate_size=self.inner_width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.context_tokens,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
            architectures=["LlamaForCausalLM"],
            dtype="bfloat16",
        )
        if not weights:
            config.save_pretrained(directory)
            return directory
        torch.manual_seed(self.seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            model.model.embed_tokens.weight[:, 0] = 1.0
            model.lm_head.weight *= SHARPNESS
            model.lm_head.weight[:, 0] = 0.0
            model.lm_head.weight[tokenizer.eos_token_id] = 0.0
            model.lm_head.weight[tokenizer.eos_token_id, 0] = -100.0
        model.to(torch.bfloat16).save_pretrained(directory)
        return directory


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END],
        show_progress=False,
    )
    pieces.train_from_iterator([" ".join(WORDS)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer
