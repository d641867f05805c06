import json
from dataclasses import replace

import pytest

from sdtune.config.schema import CoreOptions
from sdtune.export.metadata import build_metadata


def test_every_value_is_a_string(artifact, info):
    assert all(isinstance(value, str) for value in build_metadata(artifact, info).values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ss_output_name", "dog"),
        ("ss_base_model_version", "sd_v1"),
        ("ss_v2", "False"),
        ("ss_sd_model_name", "base"),
        ("ss_clip_skip", "1"),
        ("ss_resolution", "(512, 384)"),
        ("ss_training_started_at", "1700000000.0"),
        ("ss_num_train_images", "20"),
        ("ss_seed", "7"),
        ("ss_noise_offset", "None"),
        ("ss_sd_model_hash", "cd" * 4),
        ("ss_new_sd_model_hash", "ab" * 32),
        ("ss_training_comment", "None"),
        ("modelspec.sai_model_spec", "1.0.1"),
        ("modelspec.architecture", "stable-diffusion-v1/lora"),
        ("modelspec.implementation", "diffusers"),
        ("modelspec.title", "dog"),
        ("modelspec.resolution", "512x384"),
        ("modelspec.date", "2023-11-14T22:15:00+00:00"),
        ("modelspec.prediction_type", "epsilon"),
        ("modelspec.timestep_range", "0,1000"),
        ("modelspec.encoder_layer", "1"),
        ("modelspec.trigger_phrase", "zwx dog"),
    ],
)
def test_facts_are_spelled_as_readers_expect(artifact, info, key, value):
    assert build_metadata(artifact, info)[key] == value


@pytest.mark.parametrize(
    ("family", "prediction", "version", "v2", "architecture"),
    [
        ("sd1", "v_prediction", "sd_v1_v", "False", "stable-diffusion-v1/lora"),
        ("sd2", "epsilon", "sd_v2", "True", "stable-diffusion-v2-512/lora"),
        ("sd2", "v_prediction", "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
        ("other", "epsilon", "other", "False", "other/lora"),
    ],
)
def test_family_and_prediction_decide_the_version(artifact, info, family, prediction, version, v2, architecture):
    metadata = build_metadata(artifact, replace(info, family=family, prediction=prediction))
    found = metadata["ss_base_model_version"], metadata["ss_v2"], metadata["modelspec.architecture"]
    assert found == (version, v2, architecture)


@pytest.mark.parametrize(
    ("family", "clip_skip", "told"),
    [("sd1", 1, "1"), ("sd1", 2, "2"), ("sd2", 2, "None"), ("sdxl", 2, "None"), ("sdxl", 3, "3"), ("other", 2, "2")],
)
def test_clip_skip_is_told_where_a_webui_has_to_be_set(artifact, info, family, clip_skip, told):
    metadata = build_metadata(artifact, replace(info, family=family, clip_skip=clip_skip))
    assert (metadata["ss_clip_skip"], metadata["modelspec.encoder_layer"]) == (told, str(clip_skip))


def test_hashes_of_a_folder_are_left_out(artifact, info):
    metadata = build_metadata(artifact, replace(info, base_digest="", base_legacy_digest=""))
    assert not {"ss_sd_model_hash", "ss_new_sd_model_hash"} & metadata.keys()


def test_the_objective_is_named_as_kohyas_scripts_name_it(artifact, info):
    changes = {
        "loss": {"type": "huber", "huber_scale": 2.0, "min_snr_gamma": 5.0},
        "noise": {"offset": 0.1, "offset_random": True, "pyramid_levels": 6, "perturbation": 0.1},
        "data": {"resolution": "512", "tag_dropout": 0.25},
    }
    metadata = build_metadata(artifact, replace(info, config=CoreOptions.model_validate(changes)))
    expected = {
        "ss_loss_type": "huber",
        "ss_huber_schedule": "snr",
        "ss_huber_c": "0.1",
        "ss_huber_scale": "2.0",
        "ss_min_snr_gamma": "5.0",
        "ss_debiased_estimation": "False",
        "ss_noise_offset": "0.1",
        "ss_noise_offset_random_strength": "True",
        "ss_adaptive_noise_scale": "None",
        "ss_multires_noise_iterations": "6",
        "ss_multires_noise_discount": "0.3",
        "ss_ip_noise_gamma": "0.1",
        "ss_caption_tag_dropout_rate": "0.25",
        "ss_masked_loss": "False",
    }
    assert {name: metadata[name] for name in expected} == expected


def test_a_plain_objective_is_told_as_off(artifact, info):
    metadata = build_metadata(artifact, info)
    off = ("noise_offset", "multires_noise_iterations", "multires_noise_discount", "ip_noise_gamma", "huber_c")
    assert {metadata[f"ss_{name}"] for name in off} == {"None"}
    assert (metadata["ss_loss_type"], metadata["ss_min_snr_gamma"]) == ("l2", "None")


def test_a_model_of_pictures_is_told_as_one(artifact, info):
    assert build_metadata(artifact, replace(info, prediction="sample"))["modelspec.prediction_type"] == "sample"


def test_nested_values_are_json_objects(artifact, info):
    metadata = build_metadata(artifact, info)
    assert json.loads(metadata["ss_dataset_dirs"]) == {"10_dog": {"n_repeats": 10, "img_count": 2}}
    assert json.loads(metadata["ss_tag_frequency"]) == {"10_dog": {"zwx dog": 2, "grass": 1, "snow": 1}}
    assert json.loads(metadata["ss_bucket_info"])["buckets"] == {
        "0": {"resolution": [512, 384], "count": 10},
        "1": {"resolution": [576, 384], "count": 10},
    }


def test_parts_of_repeats_are_told_as_they_are(artifact, info):
    parted = [replace(image, subset=replace(image.subset, repeats=2.5)) for image in info.images]
    metadata = build_metadata(artifact, replace(info, images=tuple(parted)))
    assert json.loads(metadata["ss_dataset_dirs"]) == {"10_dog": {"n_repeats": 2.5, "img_count": 2}}
    assert metadata["ss_num_train_images"] == "5"


def test_captions_stay_private_when_asked(artifact, info):
    metadata = build_metadata(artifact, info, with_captions=False)
    assert "ss_tag_frequency" not in metadata
    assert "snow" not in "".join(metadata.values())


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ((), ("0.0001", "None", "None")),
        ((("unet", "0.001"), ("text_encoder", "0.0005")), ("0.001", "0.001", "0.0005")),
        ((("unet", "1e-05"), ("unet", "2e-05")), ("1e-05", "[1e-05, 2e-05]", "None")),
        ((("text_encoder", "0.005:100, 0.001"),), ("0.005:100, 0.001", "None", "0.005:100, 0.001")),
    ],
)
def test_rates_are_those_that_were_used(artifact, info, rates, told):
    metadata = build_metadata(artifact, replace(info, rates=rates))
    assert tuple(metadata[f"ss_{name}"] for name in ("learning_rate", "unet_lr", "text_encoder_lr")) == told


def test_the_methods_own_entries_win(artifact, info):
    own = replace(artifact, metadata={"ss_learning_rate": "0.5"})
    assert build_metadata(own, info)["ss_learning_rate"] == "0.5"


def test_configuration_reads_back_without_folders(artifact, info):
    config = json.loads(build_metadata(artifact, info)["sdtune_config"])
    assert config["train"]["seed"] == 7
    assert config["model"]["path"] == "base"
    assert config["data"]["cache"]["dir"] == "cache"


def test_no_folder_or_user_name_gets_in(artifact, info):
    text = "".join(build_metadata(artifact, info).values())
    assert "alice" not in text
    assert "/home" not in text


def test_home_folder_in_free_text_is_hidden(artifact, info, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    told = replace(artifact, metadata={"ss_note": "from /home/alice/pictures"})
    assert build_metadata(told, info)["ss_note"] == "from ~/pictures"
