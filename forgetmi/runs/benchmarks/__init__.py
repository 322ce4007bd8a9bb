"""Published benchmarks of what a language model knows and forgot, each on a folder of its published files.

====================  ===============================================================================================
``tofu``              made-up authors: probability, ROUGE, truth ratio, model utility, forget quality
``muse``              documents: VerbMem, KnowMem, PrivLeak
``lume``              SemEval-2025 task 4: task score, attack score, MMLU, final score
``wmdp``, ``mmlu``    multiple choice, with the same questions asked openly
``safe_rlhf``         PKU-SafeRLHF: harmful and refused answers
``lm_eval``           tasks of the Language Model Evaluation Harness (an extra)
====================  ===============================================================================================

``BENCHMARKS`` maps a name to its options, a :class:`~forgetmi.runs.benchmarks.base.Benchmark`.
"""

from forgetmi.registry import Registry

BENCHMARKS = Registry(
    "benchmark",
    {
        "tofu": "forgetmi.runs.benchmarks.texts:TofuBenchmark",
        "muse": "forgetmi.runs.benchmarks.texts:MuseBenchmark",
        "lume": "forgetmi.runs.benchmarks.lume:LumeBenchmark",
        "wmdp": "forgetmi.runs.benchmarks.questions:WmdpBenchmark",
        "mmlu": "forgetmi.runs.benchmarks.questions:MmluBenchmark",
        "safe_rlhf": "forgetmi.runs.benchmarks.harm:SafeRlhfBenchmark",
        "lm_eval": "forgetmi.runs.benchmarks.harness:HarnessBenchmark",
    },
)
