"""The TOFU evaluation of a checkout of open-unlearning, as it is: in a process and under an interpreter of its own.

    PYTHON tofu_peer.py CHECKOUT INPUTS REFERENCE

Nothing of its code is here. Its configuration is composed by its own files; what is set is the model and its template,
data that lie in INPUTS, one processor, and the metrics. ``lm_eval``, which it imports and this evaluation does not use,
is a stand-in. The interpreter needs torch, transformers, datasets, hydra-core, hydra_colorlog, rouge-score, scipy and
scikit-learn. Imports, loading the model and composing are not timed: the evaluation is. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

MORE = (
    "exact_memorization", "mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "mia_reference",
)  # fmt: skip
"""What its default set lacks."""


class _Anything(types.ModuleType):
    """Stands in for a package: every name in it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def main(checkout: Path, inputs: Path, reference: Path) -> dict[str, Any]:
    """Seconds, rows and tokens through the model, summary."""
    for name in ("lm_eval", "lm_eval.models", "lm_eval.models.hf_vlms", "lm_eval.tasks"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = _Anything(name)
    import torch
    from hydra import compose, initialize_config_dir

    torch.set_num_threads(1)
    sys.path.insert(0, str(checkout / "src"))
    from evals import get_evaluators
    from model import get_model

    os.chdir(inputs)  # its data are found by their name in the current folder
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(checkout / "configs"), version_base=None):
        config = compose(
            "eval.yaml",
            overrides=[
                "model=phi-1_5", "task_name=bench", f"++paths.output_dir={scratch}",
                "++model.model_args.device_map=cpu",
                "model.model_args.pretrained_model_name_or_path=model", "+model.model_args.attn_implementation=sdpa",
                "++model.model_args.torch_dtype=float32", "model.tokenizer_args.pretrained_model_name_or_path=model",
                'model.template_args.asst_start_tag="Answer:"', f"+eval/tofu_metrics=[{','.join(MORE)}]",
                "++eval.tofu.retain_logs_path=retain_TOFU_EVAL.json",
                f"++eval.tofu.metrics.mia_reference.reference_model_path={reference}",
            ],
        )  # fmt: skip
        model, tokenizer = get_model(config.model)
        evaluators = get_evaluators(config.eval)
        seen: list[tuple[int, int]] = []

        body, forward = type(model.base_model), type(model.base_model).forward  # of its reference model too

        def counted(self: Any, *given: Any, **named: Any) -> Any:
            ids = named["input_ids"] if "input_ids" in named else given[0]
            seen.append((ids.shape[0], ids.numel()))
            return forward(self, *given, **named)

        body.forward = counted
        wall, processor = time.perf_counter(), time.process_time()
        summary = evaluators["tofu"].evaluate(
            model=model, tokenizer=tokenizer, template_args=config.model.template_args
        )
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        details = json.loads((Path(scratch) / "TOFU_EVAL.json").read_text())
    return {
        "seconds": wall,
        "processor_s": processor,
        "rows": sum(rows for rows, _ in seen),
        "tokens": sum(tokens for _, tokens in seen),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "summary": summary,
        "aucs": {name: details[name]["auc"] for name in MORE if name.startswith("mia_")},
    }


if __name__ == "__main__":
    print("\n" + json.dumps(main(*(Path(given).resolve() for given in sys.argv[1:4]))))
