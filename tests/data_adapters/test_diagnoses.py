"""Labels from codes: prefixes, coding systems, and what is not known."""

from __future__ import annotations

from forgetmi.data_adapters.diagnoses import Diagnoses


def test_a_wanted_code_means_all_that_start_with_it_in_its_own_system():
    found = Diagnoses({"heart failure": ["10:I50", "9:428"], "diabetes": ["10:E11.2"]})
    found.add("a", "10:I50.9")
    found.add("a", "10:e1121")  # without the dot, in small letters
    found.add("b", "10:4280")  # the digits of ICD-9's heart failure, in another system
    found.add("c", "9:4280")
    assert found.labels() == {"a": (1.0, 1.0), "b": (0.0, 0.0), "c": (1.0, 0.0)}


def test_exact_codes_mean_themselves():
    found = Diagnoses({"heart failure": ["31613"]}, exact=True)
    found.add("a", "316139")
    found.add("b", "31613")
    assert found.labels() == {"a": (0.0,), "b": (1.0,)}


def test_an_uncertain_diagnosis_is_unknown_and_nobody_without_codes_is_healthy():
    found = Diagnoses({"heart failure": ["I50"]})
    found.add("suspected", "I50", certain=False)
    found.add("later confirmed", "I50", certain=False)
    found.add("later confirmed", "I50.1")
    found.add("still confirmed", "I50")
    found.add("still confirmed", "I50", certain=False)
    found.add("refuted", "")
    assert found.labels() == {
        "suspected": (None,),
        "later confirmed": (1.0,),
        "still confirmed": (1.0,),
        "refuted": (0.0,),
    }
