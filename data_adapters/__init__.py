"""Sources of records, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgetmi.data_adapters.base import Adapter
from forgetmi.options import build_options
from forgetmi.records import RecordDataset
from forgetmi.registry import Registry

ADAPTERS = Registry(
    "adapter",
    {
        "chexpert": "forgetmi.data_adapters.chexpert:CheXpert",
        "chexpert_plus": "forgetmi.data_adapters.chexpert_plus:CheXpertPlus",
        "clinical_notes": "forgetmi.data_adapters.clinical_notes:ClinicalNotes",
        "dicom": "forgetmi.data_adapters.dicom:Dicom",
        "fhir": "forgetmi.data_adapters.fhir:Fhir",
        "indiana_demo": "forgetmi.data_adapters.indiana_demo:IndianaDemo",
        "iu_xray": "forgetmi.data_adapters.iu_xray:IuXray",
        "join": "forgetmi.data_adapters.join:Join",
        "lume": "forgetmi.data_adapters.lume:Lume",
        "manifest": "forgetmi.data_adapters.manifest:Manifest",
        "medmnist": "forgetmi.data_adapters.medmnist:MedMnist",
        "mimic_cxr": "forgetmi.data_adapters.mimic_cxr:MimicCxr",
        "mimic_iv": "forgetmi.data_adapters.mimic_iv:MimicIV",
        "muse": "forgetmi.data_adapters.muse:Muse",
        "nih_cxr14": "forgetmi.data_adapters.nih_cxr14:NihCxr14",
        "omop": "forgetmi.data_adapters.omop:Omop",
        "openi": "forgetmi.data_adapters.openi:OpenI",
        "padchest": "forgetmi.data_adapters.padchest:PadChest",
        "ptb_xl": "forgetmi.data_adapters.ptb_xl:PtbXl",
        "r2gen": "forgetmi.data_adapters.r2gen:R2Gen",
        "safe_rlhf": "forgetmi.data_adapters.safe_rlhf:SafeRlhf",
        "text_records": "forgetmi.data_adapters.text_records:TextRecords",
        "tofu": "forgetmi.data_adapters.tofu:Tofu",
        "torchvision_set": "forgetmi.data_adapters.torchvision_set:TorchvisionSet",
        "wmdp": "forgetmi.data_adapters.wmdp:Wmdp",
    },
)


def load_dataset(name: str, options: Mapping[str, Any]) -> RecordDataset:
    """The records of a source.

    Args:
        name: an adapter's name, see ``forgetmi ls adapters``.
        options: its options, as in the YAML.

    Raises:
        ConfigError: the name or an option is unknown or wrong.
        DataError: the source is not what its format says.
    """
    adapter: Adapter = build_options(ADAPTERS[name], options, where=f"data (adapter {name})")
    return adapter.load()


__all__ = ["ADAPTERS", "Adapter", "load_dataset"]
