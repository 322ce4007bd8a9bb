"""The trainers of a checkout of open-unlearning, run on our batches.

Nothing of its code is here. What is put in its way, because it was written for an older transformers and asks for
packages that this step does not need:

* ``deepspeed``, ``omegaconf`` and ``datasets`` are empty stand-ins where they cannot be imported;
* its trainers' ``compute_loss`` does not know ``num_items_in_batch``, which newer trainers pass: a subclass drops it;
* arguments are made here (no ``logging_dir``, no ``tokenizer``), its method's own from its configuration's defaults;
* its data set, which tokenizes each record again in each step, is replaced by a list of our tokens in the order of our
  batches; they pass through its collator.

All of this saves it time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from membership_bench.peers import load
from torch import Tensor
from torch.utils.data import Dataset

from lm_bench.data import BETA, LR, STEERING, Setting, rows_of

KNOWN_BY = "src/trainer/unlearn/npo.py"
CLASSES = {"npo": "NPO", "npo_kl": "NPO", "dpo": "DPO", "grad_diff": "GradDiff", "rmu": "RMU"}
"""FLAT it does not have."""


class Items(Dataset[dict[str, Any]]):
    """What its trainer reads: one item a forget record, with the other records of its place in the batch."""

    def __init__(self, method: str, batches: Sequence[Any]) -> None:
        self.items = []
        for step in batches:
            rows = {name: rows_of(batch) for name, batch in step.items()}
            for k, forget in enumerate(rows["forget"]):
                both = {"original": forget, "alternate": rows["alternate"][k]} if method == "dpo" else forget
                self.items.append({"forget": both, "retain": rows["retain"][k]})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def peer_trainer(
    folder: Path, setting: Setting, lm: Any, batches: Sequence[Any], pad: int, scratch: Path, direction: Tensor
) -> Any:
    """Its trainer, ready to train ``lm`` on these steps."""
    import transformers

    transformers.Trainer  # noqa: B018 - imported before the stand-ins are, which it would otherwise take for the real ones
    if not (folder / KNOWN_BY).is_file():
        raise SystemExit(f"--peer: {folder} is no checkout of open-unlearning: it has no {KNOWN_BY}")
    stubs = ("deepspeed", "omegaconf", "datasets")
    theirs = load(folder / "src", "trainer", missing=stubs)
    collators = load(folder / "src", "data.collators", missing=stubs)
    base = theirs.TRAINER_REGISTRY[CLASSES[setting.method]]

    class Shimmed(base):  # type: ignore[misc, valid-type]  # of the checkout
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            return super().compute_loss(model, inputs, return_outputs)

    options: dict[str, Any] = {
        "gamma": 1.0,
        "alpha": 1.0,
        "retain_loss_type": "KL" if setting.method == "npo_kl" else "NLL",
    }
    if setting.method in ("npo", "npo_kl", "dpo"):
        options["beta"] = BETA
    if setting.method == "rmu":
        options |= {
            "steering_coeff": STEERING, "retain_loss_type": "EMBED_DIFF", "trainable_params_regex": [".*"],
            "module_regex": rf"model\.layers\.{setting.layer}",
        }  # fmt: skip
    arguments = transformers.TrainingArguments(
        output_dir=str(scratch), per_device_train_batch_size=setting.batch_size, num_train_epochs=1, learning_rate=LR,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch_fused", use_cpu=True,
        logging_steps=1, report_to="none", save_strategy="no", eval_strategy="no", disable_tqdm=True, seed=setting.seed,
        train_sampling_strategy="sequential", dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    tokenizer = type("Padding", (), {"pad_token_id": pad})()
    trainer = Shimmed(
        model=lm, args=arguments, train_dataset=Items(setting.method, batches),
        data_collator=collators.DataCollatorForSupervisedDataset(tokenizer), **options,
    )  # fmt: skip
    if setting.method == "rmu":
        trainer.control_vec = direction[None, None]
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer
