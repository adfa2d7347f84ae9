"""Models of `transformers`, `torchvision` and `torch` as they are: plain at base width, and free of width under µP."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from mufree.coordcheck import coord_check, default_loss, first_judged_step, outcome, slopes, verdict
from mufree.optim import (
    MuAdamW_ScheduleFree,
    attach_base_shapes,
    export,
    growth_of,
    load_base_shapes,
    parametrize,
    save_base_shapes,
)

logging.getLogger("transformers").setLevel(logging.ERROR)

BASE, M = 32, 4
WIDTH = M * BASE
TOKENS = 64
CLASSES = 10

Make = Callable[[int], nn.Module]


def _sizes(width: int) -> dict[str, Any]:
    return {
        "vocab_size": TOKENS,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": width // 16,
        "max_position_embeddings": 16,
    }


def llama(width: int, tied: bool = False, **changes: Any) -> nn.Module:
    sizes = _sizes(width) | {"num_key_value_heads": width // 32, "head_dim": 16, "tie_word_embeddings": tied} | changes
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, bos_token_id=0, eos_token_id=0))


def tied_llama(width: int) -> nn.Module:
    return llama(width, tied=True)


def mixtral(width: int) -> nn.Module:
    sizes = _sizes(width) | {"num_key_value_heads": width // 32, "head_dim": 16}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**sizes, **experts, bos_token_id=0, eos_token_id=0)
    )


def gpt2(width: int) -> nn.Module:
    sizes = {"vocab_size": TOKENS, "n_embd": width, "n_layer": 2, "n_head": width // 16, "n_positions": 16}
    plain = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **plain))


def bert(width: int) -> nn.Module:
    plain = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return transformers.BertForMaskedLM(transformers.BertConfig(**_sizes(width), **plain))


def convnext(width: int) -> nn.Module:
    return ConvNeXt([CNBlockConfig(width, 2 * width, 1), CNBlockConfig(2 * width, None, 1)], num_classes=CLASSES)


class Encoder(nn.Module):
    """torch's encoder with four heads at every width, so that their dimension grows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(tokens)))


class Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.tokens(tokens))[0])


MODELS: dict[str, Make] = {
    "llama": llama,
    "tied_llama": tied_llama,
    "gpt2": gpt2,
    "bert": bert,
    "mixtral": mixtral,
    "convnext": convnext,
    "encoder": Encoder,
    "lstm": Recurrent,
}


def batch(make: Make) -> Callable[[int], tuple[Tensor, Tensor]]:
    def of_seed(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        if make is convnext:
            return torch.randn(8, 3, 32, 32, generator=generator), torch.randint(CLASSES, (8,), generator=generator)
        text = torch.randint(TOKENS, (4, 9), generator=generator)
        return text[:, :-1], text[:, 1:]

    return of_seed


def losses(model: nn.Module, optimizer: Any, make: Make, steps: int = 3) -> list[Tensor]:
    optimizer.train()
    found = []
    for step in range(steps):
        inputs, targets = batch(make)(step)
        loss = default_loss(model(inputs), targets)
        loss.backward()
        found.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    return found


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_at_base_width_outputs_gradients_and_training_are_the_plain_models(make: Make) -> None:
    torch.manual_seed(0)
    plain = make(BASE)
    model = parametrize(make, BASE, BASE, seed=0)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    assert losses(model, MuAdamW_ScheduleFree(model.parameters(), **settings), make) == losses(
        plain, AdamWScheduleFree(plain.parameters(), **settings), make
    )
    assert type(model) is type(plain)
    for (name, value), (plain_name, plain_value) in zip(
        model.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert name == plain_name
        assert torch.equal(value, plain_value)


# Names end so; the growth of fan-in and fan-out.
HIDDEN, VECTOR, OUTPUT, FIXED = (M, M), (1, M), (M, 1), (1, 1)
LLAMA = {
    "embed_tokens.weight": VECTOR,
    **{f"{name}_proj.weight": HIDDEN for name in ("q", "k", "v", "o", "gate", "up", "down")},
    "norm.weight": VECTOR,
    "input_layernorm.weight": VECTOR,
    "post_attention_layernorm.weight": VECTOR,
    "lm_head.weight": OUTPUT,
}
GROWTHS = {
    "llama": LLAMA,
    "tied_llama": LLAMA,
    "mixtral": LLAMA | {"mlp.gate.weight": OUTPUT, "experts.gate_up_proj": HIDDEN, "experts.down_proj": HIDDEN},
    "gpt2": {
        "wte.weight": VECTOR,
        "wpe.weight": VECTOR,
        "bias": VECTOR,
        **{f"ln_{name}.weight": VECTOR for name in ("1", "2", "f")},
        **{f"{name}.weight": HIDDEN for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")},
    },
    "bert": {
        "predictions.bias": FIXED,
        "embeddings.weight": VECTOR,
        "LayerNorm.weight": VECTOR,
        "bias": VECTOR,
        **{f"{name}.weight": HIDDEN for name in ("query", "key", "value", "dense")},
    },
    "convnext": {
        "classifier.2.bias": FIXED,
        "classifier.2.weight": OUTPUT,
        "bias": VECTOR,
        "layer_scale": VECTOR,
        "features.0.0.weight": VECTOR,
        "block.0.weight": VECTOR,  # depthwise
        "block.3.weight": HIDDEN,
        "block.5.weight": HIDDEN,
        "2.1.weight": HIDDEN,
        "weight": VECTOR,  # norms
    },
    "encoder": {
        "tokens.weight": VECTOR,
        "head.bias": FIXED,
        "head.weight": OUTPUT,
        **{f"norm{n}.weight": VECTOR for n in (1, 2)},
        "bias": VECTOR,
        "weight": HIDDEN,
    },
    "lstm": {
        "tokens.weight": VECTOR,
        "head.bias": FIXED,
        "head.weight": OUTPUT,
        "weight_ih_l0": HIDDEN,
        "weight_hh_l0": HIDDEN,
    },
}
GROWTHS["lstm"] |= {"bias_ih_l0": VECTOR, "bias_hh_l0": VECTOR}
GROWTHS["encoder"]["in_proj_bias"] = VECTOR
GROWTHS["encoder"]["in_proj_weight"] = HIDDEN


@pytest.mark.parametrize("name", MODELS)
def test_the_growth_of_every_tensor_by_hand(name: str) -> None:
    for parameter_name, parameter in parametrize(MODELS[name], WIDTH, BASE, seed=0).named_parameters():
        expected = next(growth for end, growth in GROWTHS[name].items() if parameter_name.endswith(end))
        assert growth_of(parameter) == expected, parameter_name


CHECKS: dict[str, dict[str, Any]] = {
    # A convolution's many positions move the narrow networks further than the wide ones, unless steps are small.
    "convnext": {"lr": 2**-12},
    # A token that changes its experts jumps, so that more seeds are needed than elsewhere.
    "mixtral": {"widths": (64, 128, 256, 512), "seeds": 8},
}
SHORT = ("tied_llama", "encoder", "lstm")


def checked(
    make: Make, parametrization: Any, *, seeds: int = 4, lr: float = 2**-10, widths: Sequence[int] = (64, 128, 256)
) -> str:
    frame = coord_check(
        lambda width, seed: parametrize(make, width, BASE, parametrization, seed=seed),
        lambda model: MuAdamW_ScheduleFree(model.parameters(), lr=lr, betas=(0.9, 0.99), eps=1e-12),
        widths=widths,
        batch=batch(make),
        steps=3,
        seeds=seeds,
    )
    verdicts = verdict(slopes(frame), first_step=first_judged_step(frame))
    assert set(verdicts["at"]) == {"y", "x"}
    return outcome(verdicts)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.whole) for name in MODELS]
)
def test_the_coordinate_check_passes_under_mup_and_fails_under_sp(name: str) -> None:
    settings = CHECKS.get(name, {})
    assert checked(MODELS[name], "mup", **settings) == "passed"
    assert checked(MODELS[name], "sp", **settings | {"seeds": 3}) == "failed"


# --- saving and leaving ----------------------------------------------------------------------------------------------


def trained(make: Make) -> nn.Module:
    model = parametrize(make, WIDTH, BASE, seed=0)
    losses(model, torch_adamw(model), make)
    return model.eval()


def torch_adamw(model: nn.Module) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer.train = lambda: None  # type: ignore[attr-defined]
    return optimizer


@pytest.mark.parametrize("make", [llama, tied_llama, gpt2])
def test_an_export_saved_and_loaded_by_the_plain_class_gives_the_same_logits(make: Make, tmp_path: Path) -> None:
    model = trained(make)
    export(model).save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    inputs, _ = batch(make)(1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs).logits, model(inputs).logits, rtol=1e-6, atol=1e-6)
        assert make is llama or not torch.allclose(
            _reloaded(model, tmp_path / "as_it_is")(inputs).logits, model(inputs).logits
        )


def test_a_checkpoint_of_transformers_goes_on_under_mup(tmp_path: Path) -> None:
    model = trained(tied_llama)
    save_base_shapes(model, tmp_path / "shapes.json")
    loaded = _reloaded(model, tmp_path / "model")
    attach_base_shapes(loaded, load_base_shapes(tmp_path / "shapes.json"))
    inputs, _ = batch(llama)(1)
    assert torch.equal(loaded(inputs).logits, model(inputs).logits)
    groups = [[group["lr"] for group in MuAdamW_ScheduleFree(m.parameters()).param_groups] for m in (loaded, model)]
    assert groups[0] == groups[1]


def _reloaded(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def test_compiled_it_is_the_same_model() -> None:
    for make in (Encoder, tied_llama):
        model = parametrize(make, WIDTH, BASE, seed=0)
        inputs, _ = batch(make)(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler warns of itself where it gives a hook to Python
            eager, compiled = (
                getattr(out, "logits", out) for out in (model(inputs), torch.compile(model, backend="eager")(inputs))
            )
        torch.testing.assert_close(compiled, eager)


def test_a_low_rank_adapter_of_peft() -> None:
    """Its A is summed over a growing dimension; by a rule it starts at size one as hidden weights do."""
    import peft

    def adapted(width: int) -> nn.Module:
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it calls by a new name
            return peft.get_peft_model(llama(width), config)  # type: ignore[arg-type]

    model = parametrize(adapted, WIDTH, BASE, seed=0, initial="kept", rules={"*lora_A*": "hidden"})
    trainable = {name: growth_of(p) for name, p in model.named_parameters() if p.requires_grad}
    assert {growth for name, growth in trainable.items() if "lora_A" in name} == {(M, 1)}
    assert {growth for name, growth in trainable.items() if "lora_B" in name} == {(1, M)}
    assert len(trainable) == 8


def test_logits_of_an_untied_model_shrink_with_width_and_so_does_nothing_else() -> None:
    inputs, _ = batch(llama)(0)
    sizes = {w: parametrize(llama, w, BASE, seed=0)(inputs).logits.std().item() for w in (BASE, 16 * BASE)}
    assert sizes[16 * BASE] / sizes[BASE] == pytest.approx(16**-0.5, rel=0.15)
