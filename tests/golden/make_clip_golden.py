"""Make clip.npz with transformers and open_clip, in an environment of its own; no test needs PyTorch.

    pip install torch torchvision transformers open_clip_torch
    python tests/golden/make_clip_golden.py

Embeddings and logits in float64 of small networks, with the weights that a formula gives by name
(tests/pretrained/published_weights.py): transformers' CLIPModel, and OpenAI's layout with both image towers as
open_clip builds it; the names and shapes of the state dicts of ViT-B/32 in both layouts and of RN50; the configuration
that transformers writes; and the tokens that transformers' CLIPTokenizer makes with a small vocabulary.
"""
# ruff: noqa: E402 - the formula of weights is not in a package

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

if "torchvision" not in sys.modules:  # builds without compiled operators
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import golden_image, published_array
from tiny_clip_vocabulary import MERGES, TEXTS, VOCABULARY

TEXT = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
IMAGE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = np.array([[62, 5, 9, 63, 63, 63, 63], [62, 1, 2, 3, 4, 60, 63]])


def transformers_model(text=TEXT, image=IMAGE, end=63, side=16, patch=8, length=7, width=48):
    return CLIPModel(
        CLIPConfig(
            text_config={**text, "max_position_embeddings": length, "eos_token_id": end, "bos_token_id": end - 1},
            vision_config={**image, "image_size": side, "patch_size": patch},
            projection_dim=width,
        )
    )


def open_clip_model(vision, *, vocabulary=64, length=7, width=64, heads=1, layers=2, embedding=48):
    text = CLIPTextCfg(context_length=length, vocab_size=vocabulary, width=width, heads=heads, layers=layers)
    return CLIP(embedding, vision, text, quick_gelu=True)


OPENAI = {
    "vit": lambda: open_clip_model(CLIPVisionCfg(layers=2, width=128, patch_size=8, image_size=16, head_width=64)),
    "resnet": lambda: open_clip_model(CLIPVisionCfg(layers=(1, 2, 1, 1), width=8, image_size=64, head_width=64)),
}


def filled(model):
    state = model.state_dict()
    for key, x in state.items():
        if x.is_floating_point():
            state[key] = torch.from_numpy(np.asarray(published_array(key, tuple(x.shape)))).reshape(x.shape)
    model.load_state_dict(state, strict=True)
    return model.double().eval()


def names(model):
    return np.array(json.dumps({key: list(x.shape) for key, x in model.state_dict().items()}))


arrays = {}
image = lambda side: torch.from_numpy(golden_image(side, side)).permute(0, 3, 1, 2).double()
with torch.no_grad():
    model = filled(transformers_model())
    made = model(input_ids=torch.from_numpy(TOKENS), pixel_values=image(16))
    arrays["transformers_logits"] = made.logits_per_image.numpy()
    arrays["transformers_tokens"] = made.text_model_output.last_hidden_state.numpy()
    arrays["transformers_image"] = made.image_embeds.numpy()
    arrays["transformers_text"] = made.text_embeds.numpy()
    arrays["transformers_config"] = np.array(model.config.to_json_string())
    for name, build in OPENAI.items():
        model = filled(build())
        side = 64 if name == "resnet" else 16
        found = [model.encode_image(image(side)), model.encode_text(torch.from_numpy(TOKENS))]
        arrays[f"openai_{name}_image"], arrays[f"openai_{name}_text"] = (x.numpy() for x in found)
        arrays[f"openai_{name}_names"] = names(model)
with torch.device("meta"):
    arrays["vit_b32_transformers_names"] = names(CLIPModel(CLIPConfig()))
    whole = {"vocabulary": 49408, "length": 77, "width": 512, "heads": 8, "layers": 12}
    b32 = CLIPVisionCfg(layers=12, width=768, patch_size=32, image_size=224, head_width=64)
    rn50 = CLIPVisionCfg(layers=(3, 4, 6, 3), width=64, image_size=224, head_width=64)
    arrays["vit_b32_names"] = names(open_clip_model(b32, embedding=512, **whole))
    arrays["rn50_names"] = names(open_clip_model(rn50, embedding=1024, **whole))
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "vocab.json").write_text(json.dumps(VOCABULARY))
    (Path(folder) / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    arrays["tokens"] = np.array(tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12)["input_ids"])
for key, value in arrays.items():
    if value.dtype.kind == "f":
        arrays[key] = value.astype(np.float32)
        print(key, value.shape, np.abs(value).max(), value.std())
np.savez_compressed(HERE / "clip.npz", **arrays)
print((HERE / "clip.npz").stat().st_size, arrays["tokens"].tolist())
