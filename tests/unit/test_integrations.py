"""Lightning, transformers' Trainer and accelerate train what a plain loop trains, look at x, and go on to the bit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from accelerate import Accelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from mufree.integrations.lightning import ScheduleFreeCallback
from mufree.integrations.transformers import ScheduleFreeCallback as TrainerScheduleFree
from mufree.optim import (
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuScheduleFreeWrapper,
    MuSGD_ScheduleFree,
    evaluating,
    load_checkpoint,
    parametrize,
    recompute_batchnorm,
    resume,
    save_checkpoint,
    saving,
)

pytestmark = [
    # Lightning advises on loaders, and calls what torch has renamed.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*BatchNorm is evaluated at x with statistics.*:UserWarning"),
]

State = dict[str, Tensor]
STEPS = 12


class Net(nn.Module):
    """As anyone would write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.readout = nn.Linear(width, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.features(images).mean((2, 3)))


def network() -> nn.Module:
    return parametrize(Net, 16, 8, seed=0)


def image_batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 6, 6, generator=generator), torch.randint(0, 4, (8,), generator=generator)


TRAIN = [image_batch(seed) for seed in range(4)]
VALIDATION = [image_batch(seed) for seed in range(100, 102)]


def adamw(parameters: Any) -> Any:
    return MuAdamW_ScheduleFree(parameters, lr=0.05, warmup_steps=4, weight_decay=0.1)


def wrapper(parameters: Any) -> Any:
    return MuScheduleFreeWrapper(parameters, lr=0.5)


def sgd(parameters: Any) -> Any:
    return MuSGD_ScheduleFree(parameters, lr=0.5)


def copied(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def x_of(model: nn.Module, optimizers: Any, batches: Any = None) -> State:
    with evaluating(optimizers, model, batches):
        return copied(model)


def plain_loop(model: nn.Module, optimizers: list[Any], steps: int, start: int = 0) -> None:
    """What the trainers are held against."""
    model.train()
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):
            optimizer.train()
    for step in range(start, start + steps):
        images, targets = TRAIN[step % len(TRAIN)]
        F.cross_entropy(model(images), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


# --- Lightning -------------------------------------------------------------------------------------------------------


class Module(pl.LightningModule):
    def __init__(self, make: Callable[[Any], Any] = adamw) -> None:
        super().__init__()
        self.net, self.make = network(), make
        self.seen: list[State] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        if index == 0:
            self.seen.append(copied(self.net))
        self.log("loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def predict_step(self, batch: Any, index: int) -> Tensor:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return self.make(self.net.parameters())


class TwoOptimizers(Module):
    """With manual optimization, as Lightning asks for; one optimizer averages nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return two(self.net)

    def training_step(self, batch: Any, index: int) -> None:
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


def two(net: Any) -> list[Any]:
    return [adamw(net.features.parameters()), MuAdamW(net.readout.parameters(), lr=0.01)]


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def make(*callbacks: pl.Callback, epochs: int = 3, **options: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        if not any(isinstance(each, ModelCheckpoint) for each in callbacks):
            quiet["enable_checkpointing"] = False
        return pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
            **quiet,
            **options,
        )

    return make


def loader(batches: list[Any]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def fit(trainer: pl.Trainer, module: Module, **options: Any) -> None:
    trainer.fit(module, loader(TRAIN), loader(VALIDATION), **options)


@pytest.mark.parametrize("make", [adamw, wrapper, sgd])
def test_lightning_trains_a_plain_loops_bits_however_often_it_looks(make: Any, trainer: Any) -> None:
    plain = network()
    optimizer = make(plain.parameters())
    plain_loop(plain, [optimizer], STEPS)
    for interval in (1, 4):
        module = Module(make)
        it = trainer(ScheduleFreeCallback(), val_check_interval=interval)
        fit(it, module)
        assert same(copied(module.net), x_of(plain, optimizer))
        resume(it.optimizers, module)
        assert same(copied(module.net), copied(plain))


def test_lightning_evaluates_at_x_and_without_the_callback_it_does_not(trainer: Any) -> None:
    plain = network()
    optimizer = adamw(plain.parameters())
    expected = []
    for epoch in range(3):
        plain_loop(plain, [optimizer], 4, start=4 * epoch)
        expected.append(x_of(plain, optimizer, TRAIN))
    module = Module()
    it = trainer(ScheduleFreeCallback(TRAIN), num_sanity_val_steps=0)
    fit(it, module)
    assert all(same(seen, x) for seen, x in zip(module.seen, expected, strict=True))
    it.validate(module, loader(VALIDATION), verbose=False)
    it.test(module, loader(VALIDATION), verbose=False)
    assert all(same(seen, expected[-1]) for seen in module.seen[3:])
    with torch.no_grad():
        outputs = it.predict(module, loader(VALIDATION))
        assert torch.equal(outputs[0], module.eval().net(VALIDATION[0][0]))

    class TrainMode(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.optimizers[0].train()

    module = Module()
    fit(trainer(TrainMode(), num_sanity_val_steps=0), module)
    assert not any(same(seen, x) for seen, x in zip(module.seen, expected, strict=True))
    with pytest.raises(Exception, match="not in train mode"):
        fit(trainer(), Module())


def test_frozen_batchnorm_keeps_its_statistics_in_lightning(trainer: Any) -> None:
    class Frozen(Module):
        def on_train_start(self) -> None:
            self.net.features[1].eval()  # type: ignore[index, union-attr]

    module = Frozen()
    fit(trainer(ScheduleFreeCallback(TRAIN), num_sanity_val_steps=0), module)
    name = "features.1.running_mean"
    assert all(torch.equal(seen[name], torch.zeros(16)) for seen in module.seen)
    assert not module.net.features[1].training  # type: ignore[index, union-attr]


@pytest.mark.parametrize("kind", ["one", "wrapper", "two"])
@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_of_lightning_holds_x_and_goes_on_to_the_bit(
    kind: str, weights_only: bool, trainer: Any, tmp_path: Path
) -> None:
    makers = {"one": Module, "wrapper": lambda: Module(wrapper), "two": TwoOptimizers}
    make: Callable[[], Module] = makers[kind]  # type: ignore[assignment]
    whole = make()
    settings: Any = {"save_on_train_epoch_end": True, "save_top_k": -1, "save_weights_only": weights_only}
    fit(trainer(ScheduleFreeCallback(TRAIN), ModelCheckpoint(tmp_path, "{epoch}", **settings)), whole)

    plain = network()
    optimizers = {"one": lambda: [adamw(plain.parameters())], "wrapper": lambda: [wrapper(plain.parameters())]}.get(
        kind, lambda: two(plain)
    )()
    for epoch in range(3):
        plain_loop(plain, optimizers, 4, start=4 * epoch)
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt")["state_dict"]
        x = x_of(plain, optimizers, TRAIN)
        assert same({name.removeprefix("net."): value for name, value in saved.items()}, x)
    assert same(copied(whole.net), x)
    if weights_only:
        return
    resumed = make()
    others = ModelCheckpoint(tmp_path, "{epoch}", **settings)
    fit(trainer(ScheduleFreeCallback(TRAIN), others), resumed, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert same(copied(resumed.net), copied(whole.net))


def test_what_lightning_saves_after_fit_goes_on_to_the_bit(trainer: Any, tmp_path: Path) -> None:
    whole, part = Module(), Module()
    fit(trainer(ScheduleFreeCallback(TRAIN)), whole)
    it = trainer(ScheduleFreeCallback(TRAIN), epochs=2)
    fit(it, part)
    it.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Module()
    fit(trainer(ScheduleFreeCallback(TRAIN)), resumed, ckpt_path=tmp_path / "last.ckpt")
    assert same(copied(resumed.net), copied(whole.net))


def test_an_error_in_lightnings_validation_leaves_training_where_it_was(trainer: Any) -> None:
    class Failing(Module):
        def validation_step(self, batch: Any, index: int) -> None:
            raise ArithmeticError

    module, plain = Failing(), network()
    with pytest.raises(ArithmeticError):
        fit(trainer(ScheduleFreeCallback(), num_sanity_val_steps=0), module)
    plain_loop(plain, [adamw(plain.parameters())], 4)
    assert same(copied(module.net), copied(plain))


# --- transformers' Trainer -------------------------------------------------------------------------------------------


def llama(width: int) -> nn.Module:
    heads = {"num_attention_heads": width // 8, "num_key_value_heads": width // 8, "head_dim": 8}
    sizes = {"vocab_size": 32, "hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, **heads, max_position_embeddings=8, bos_token_id=0, eos_token_id=0)
    return transformers.LlamaForCausalLM(config)


def language_model() -> Any:
    return parametrize(llama, 32, 16, seed=0)


class Text(IterableDataset[dict[str, Tensor]]):
    """Always in one order, so that a plain loop sees it too."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for seed in range(48):
            tokens = torch.randint(32, (8,), generator=torch.Generator().manual_seed(seed))
            yield {"input_ids": tokens, "labels": tokens}


EVALUATION = list(Text())[:4]


def made(folder: Path, *callbacks: Any, make: Any = adamw, schedule: Any = None, **options: Any) -> Any:
    model = language_model()
    optimizer = make(model.parameters())
    settings = {"lr_scheduler_type": "constant", "max_steps": STEPS, "max_grad_norm": 0.0, "save_strategy": "no"}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}
    args = transformers.TrainingArguments(str(folder), per_device_train_batch_size=4, **(settings | options), **quiet)
    trainer = transformers.Trainer(
        model,
        args,
        train_dataset=Text(),
        eval_dataset=EVALUATION,
        optimizers=(optimizer, schedule(optimizer) if schedule else None),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def trained(folder: Path, *callbacks: Any, resume: str | None = None, **options: Any) -> Any:
    """A Trainer after training, with its model and the optimizer."""
    trainer = made(folder, *callbacks, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, trainer.model, trainer.optimizer


def plain_language(steps: int, model: Any, optimizer: Any, start: int = 0) -> None:
    examples = list(Text())
    model.train()
    optimizer.train()
    for step in range(start, start + steps):
        few = examples[4 * step : 4 * step + 4]
        tokens = torch.stack([each["input_ids"] for each in few])
        count = (tokens[:, 1:] != -100).sum()
        model(input_ids=tokens, labels=tokens, num_items_in_batch=count).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def constant(optimizer: Any) -> Any:
    """The wrapper is no torch optimizer, for which alone torch makes schedules; its base is."""
    return transformers.get_constant_schedule(getattr(optimizer, "base", optimizer))


@pytest.mark.parametrize("make", [adamw, wrapper])
def test_trainer_trains_a_plain_loops_bits_however_often_it_evaluates(make: Any, tmp_path: Path) -> None:
    plain = language_model()
    optimizer = make(plain.parameters())
    plain_language(STEPS, plain, optimizer)
    x = x_of(plain, optimizer)
    looking = {"eval_strategy": "steps", "eval_steps": 1}
    for options in ({}, looking, looking | {"eval_on_start": True}):
        _, model, its = trained(tmp_path, TrainerScheduleFree(), make=make, schedule=constant, **options)
        assert same(copied(model), x)
        resume(its, model)
        assert same(copied(model), copied(plain))
    without = [trained(tmp_path, make=make, schedule=constant, **options) for options in ({}, looking)]
    assert not same(*(x_of(model, its) for _, model, its in without))  # eval() and train() interpolate


def test_trainer_evaluates_and_saves_at_x_and_resumes_to_the_bit(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 5}
    trainer, whole, _ = trained(tmp_path, TrainerScheduleFree(), **options)
    losses = {each["step"]: each["eval_loss"] for each in trainer.state.log_history if "eval_loss" in each}
    plain = language_model()
    optimizer = adamw(plain.parameters())
    tokens = torch.stack([each["input_ids"] for each in EVALUATION])
    for step in range(STEPS):
        plain_language(1, plain, optimizer, start=step)
        if step + 1 in losses:
            with evaluating(optimizer, plain), torch.no_grad():
                assert losses[step + 1] == pytest.approx(plain(tokens, labels=tokens).loss.item(), rel=1e-6)
        if step + 1 in (5, 10):
            saved = transformers.LlamaForCausalLM.from_pretrained(tmp_path / f"checkpoint-{step + 1}")
            assert same(copied(saved), x_of(plain, optimizer))
    assert len(losses) == 4
    _, resumed, _ = trained(tmp_path, TrainerScheduleFree(), **options, resume=str(tmp_path / "checkpoint-5"))
    assert same(copied(resumed), copied(whole))


def test_without_the_callback_trainer_saves_at_y_and_resumes_elsewhere(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 5}
    _, whole, its = trained(tmp_path, **options)
    plain = language_model()
    optimizer = adamw(plain.parameters())
    plain_language(5, plain, optimizer)
    saved = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-5")
    assert same(copied(saved), copied(plain))
    assert not same(copied(saved), x_of(plain, optimizer))
    assert its.param_groups[0]["train_mode"]  # and what one has after training is y
    assert not same(copied(whole), x_of(whole, its))


def test_trainers_decay_is_refused_and_changes_what_is_trained(tmp_path: Path) -> None:
    for bad in ("linear", "cosine", "constant_with_warmup"):
        with pytest.raises(ValueError, match=r'lr_scheduler_type="constant"'):
            trained(tmp_path, TrainerScheduleFree(), lr_scheduler_type=bad, warmup_steps=2)
    _, decayed, its = trained(tmp_path, lr_scheduler_type="linear")
    _, level, _ = trained(tmp_path, TrainerScheduleFree())
    assert not same(x_of(decayed, its), copied(level))
    _, cured, _ = trained(tmp_path, TrainerScheduleFree(), schedule=constant, lr_scheduler_type="linear")
    assert same(copied(cured), copied(level))
    # Another optimizer may have its schedule.
    trained(tmp_path, TrainerScheduleFree(), make=lambda p: MuAdamW(p, lr=0.01), lr_scheduler_type="linear")


def test_trainer_ends_at_the_best_checkpoints_x(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    trainer, model, _ = trained(tmp_path, TrainerScheduleFree(), **options, load_best_model_at_end=True)
    best = transformers.LlamaForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    assert same(copied(model), copied(best))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric)


def test_a_callback_that_saves_after_ours_is_an_error(tmp_path: Path) -> None:
    class Late(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_save = True

    with pytest.raises(RuntimeError, match="Give ScheduleFreeCallback last"):
        trained(tmp_path, TrainerScheduleFree(), Late())
    trained(tmp_path, Late(), TrainerScheduleFree(), max_steps=2)


def test_after_an_interrupted_evaluation_trainer_trains_on_from_y(tmp_path: Path) -> None:
    class Interrupting(transformers.TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise KeyboardInterrupt

    trainer = made(tmp_path, TrainerScheduleFree(), Interrupting(), max_steps=2, eval_strategy="steps", eval_steps=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Interrupting)
    trainer.train()
    plain = language_model()
    optimizer = adamw(plain.parameters())
    plain_language(2, plain, optimizer)
    plain_language(2, plain, optimizer)
    assert same(copied(trainer.model), x_of(plain, optimizer))


# --- accelerate ------------------------------------------------------------------------------------------------------


def prepared(make: Any = adamw, **options: Any) -> tuple[Any, Any, Any, Any]:
    model = network()
    bare = make(model.parameters())
    accelerator = Accelerator(cpu=True, **options)
    return accelerator, *accelerator.prepare(model, bare), bare


def accelerated(accelerator: Any, model: Any, optimizer: Any, steps: int, start: int = 0) -> None:
    model.train()
    optimizer.train()
    for step in range(start, start + steps):
        images, targets = TRAIN[step % len(TRAIN)]
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(images), targets))
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("make", [adamw, wrapper, sgd])
def test_accelerate_trains_evaluates_and_saves_as_a_plain_loop(make: Any, tmp_path: Path) -> None:
    plain = network()
    plain_optimizer = make(plain.parameters())
    plain_loop(plain, [plain_optimizer], STEPS)
    accelerator, model, optimizer, _ = prepared(make)
    accelerated(accelerator, model, optimizer, STEPS // 2)
    with evaluating(optimizer, model, TRAIN):
        save_checkpoint(tmp_path / "half.pt", model, optimizer)
        half = copied(model)
        with pytest.raises(RuntimeError, match="inside"):
            optimizer.step()
    accelerated(accelerator, model, optimizer, STEPS // 2, start=STEPS // 2)
    assert same(copied(model), copied(plain))
    assert same(x_of(model, optimizer, TRAIN), x_of(plain, plain_optimizer, TRAIN))

    bare = network()
    bare_optimizer = make(bare.parameters())
    load_checkpoint(tmp_path / "half.pt", bare)
    assert same(copied(bare), half)
    load_checkpoint(tmp_path / "half.pt", bare, bare_optimizer)
    plain_loop(bare, [bare_optimizer], STEPS // 2, start=STEPS // 2)
    assert same(copied(bare), copied(plain))
    accelerator, model, optimizer, _ = prepared(make)
    load_checkpoint(tmp_path / "half.pt", model, optimizer)
    accelerated(accelerator, model, optimizer, STEPS // 2, start=STEPS // 2)
    assert same(copied(model), copied(plain))


@pytest.mark.parametrize("make", [adamw, sgd])
def test_what_accelerate_saves_itself_goes_on_to_the_bit(make: Any, tmp_path: Path) -> None:
    plain = network()
    plain_loop(plain, [make(plain.parameters())], STEPS)
    accelerator, model, optimizer, _ = prepared(make)
    accelerated(accelerator, model, optimizer, STEPS // 2)
    before = copied(model)
    with saving(optimizer, model, TRAIN):
        accelerator.save_state(str(tmp_path))
        x = copied(model)
    assert same(copied(model), before)
    accelerator, model, optimizer, _ = prepared(make)
    accelerator.load_state(str(tmp_path))
    assert same(copied(model), x)
    resume(optimizer, model)
    assert same(copied(model), before)
    accelerated(accelerator, model, optimizer, STEPS // 2, start=STEPS // 2)
    assert same(copied(model), copied(plain))


def test_accumulated_gradients_in_accelerate() -> None:
    accelerator, model, optimizer, _ = prepared(gradient_accumulation_steps=2)
    accelerated(accelerator, model, optimizer, STEPS)
    plain = network()
    its = adamw(plain.parameters())
    its.train()
    for step in range(STEPS):
        images, targets = TRAIN[step % len(TRAIN)]
        (F.cross_entropy(plain(images), targets) / 2).backward()
        if step % 2:
            its.step()
            its.zero_grad()
    assert same(copied(model), copied(plain))


def test_a_wrapped_optimizer_that_averages_nothing_is_seen_through() -> None:
    _, model, optimizer, _ = prepared(lambda parameters: MuAdamW(parameters, lr=0.01))
    before = copied(model)
    with evaluating(optimizer, model):
        assert same(copied(model), before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recompute_batchnorm(model, TRAIN)


# --- what they share -------------------------------------------------------------------------------------------------


def test_saves_nest_and_leave_nothing_behind() -> None:
    model = network()
    optimizer = adamw(model.parameters())
    plain_loop(model, [optimizer], 3)
    with saving(optimizer, model, TRAIN):
        with saving(optimizer, model):
            pass
        kept = optimizer.state_dict()["param_groups"][0]["training"]
    assert "training" not in optimizer.param_groups[0]
    optimizer.param_groups[0]["training"] = kept | {"weights": kept["weights"][:-1]}
    with pytest.raises(ValueError, match="other parameters"):
        resume(optimizer, model)
