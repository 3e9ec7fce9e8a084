from __future__ import annotations

import pytest

from immiscible.comparison.plan import check_starts, run_config, variants_of
from immiscible.comparison.variants import Variant, parse_variants
from immiscible.config.comparison import comparison_of
from immiscible.config.recipes import ConsistencyConfig, DDIMConfig, FlowConfig
from immiscible.errors import InputError
from immiscible.samplers import parse_samplers


def names(text: str) -> list[str]:
    return [variant.name for variant in parse_variants(text, FlowConfig)]


def test_baseline_comes_first_and_spellings_are_settled() -> None:
    assert names("knn:4:l2, independent,assignment") == ["independent", "knn:4", "assignment"]
    assert names("independent[noise-scale=0.90],independent") == ["independent", "independent[noise-scale=0.9]"]


def test_settings_take_the_types_of_their_fields() -> None:
    (variant,) = parse_variants(
        "assignment@0.5[cost-space=pca:8, coupling_start=7,data-scale=2,conditional=true]", FlowConfig
    )
    assert variant.coupling == "assignment@0.5"
    assert variant.settings == {"cost_space": "pca:8", "coupling_start": 7, "data_scale": 2.0, "conditional": True}
    assert variant.name == "assignment@0.5[cost-space=pca:8,coupling-start=7,data-scale=2.0,conditional=True]"


def test_a_share_stands_in_the_name_and_trains_from_its_step() -> None:
    share, step = parse_variants("assignment[coupling-start=25%],assignment[coupling-start=25]", FlowConfig)
    assert share.name == "assignment[coupling-start=25%]"
    assert share.slug != step.slug
    assert run_config(comparison_of("flow")(steps=400), share, 0).coupling_start == 100


def test_each_task_has_its_own_settings() -> None:
    assert parse_variants("knn:4[min-snr=5]", DDIMConfig)[0].settings == {"min_snr": 5.0}
    assert parse_variants("knn:4[sigma-max=40]", ConsistencyConfig)[0].settings == {"sigma_max": 40.0}
    with pytest.raises(InputError, match="must be one of noise-scale, data-scale, schedule-shift"):
        parse_variants("knn:4[sigma-max=40]", FlowConfig)


def test_what_is_only_sampled_differently_shares_its_run() -> None:
    plain, scaled, raw = parse_variants(
        "independent,independent[noise-scale=0.9],independent[cost-space=raw]", FlowConfig
    )
    assert plain.slug == scaled.slug != raw.slug
    config = comparison_of("flow")()
    assert run_config(config, plain, 0) == run_config(config, scaled, 0)
    assert run_config(config, raw, 0).cost_space == "raw"
    assert run_config(config, plain, 0).cost_space == "centered"


def test_slugs_are_names_of_directories() -> None:
    for variant in parse_variants("assignment@0.5[cost-space=pooled:4],knn:2.5:dot", FlowConfig):
        assert set(variant.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_")
    assert Variant("assignment@0.5").slug == "assignment-at-0.5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("knn:4,knn:4", "--couplings must be different"),
        ("knn:4[cost-space=raw],knn:4[cost-space=raw]", "--couplings must be different"),
        ("knn:4[cost-space=raw", "--couplings must be couplings such as"),
        ("knn:4[data=digits]", "must be one of noise-scale"),
        ("knn:4[steps=5]", "must be one of noise-scale"),
        ("knn:4[coupling-start=soon]", "coupling-start in --couplings must be a whole number, got 'soon'"),
        ("knn:4[noise-scale=x]", "noise-scale in --couplings must be a number"),
        ("knn:4[conditional=1]", "conditional in --couplings must be true or false"),
        ("best", "unknown coupling"),
    ],
)
def test_bad_contenders_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_variants(text, FlowConfig)
    assert said in str(caught.value)


def test_controls_share_runs_or_have_none() -> None:
    plain, begun, prior = parse_variants(
        "independent,independent[start=components:8@0.50],prior:components:16", FlowConfig
    )
    assert (begun.name, begun.slug) == ("independent[start=components:8@0.5]", plain.slug)
    assert (begun.start.components, begun.start.time) == (8, 0.5)
    assert begun.picture == "independent-start-components-8-at-0.5"
    assert (prior.name, prior.prior, plain.prior) == ("prior:components:16", 16, 0)
    config = comparison_of("flow")()
    assert run_config(config, plain, 0) == run_config(config, begun, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prior:components:16", "--couplings must have a coupling to train"),
        ("independent,prior:components:16[start=components:8@0.5]", "a prior in --couplings must have no settings"),
        ("independent,prior:pixels", "a prior must be spelled as components:32, with at most 1,024"),
        ("independent[start=components:8]", "start in --couplings must be auto"),
    ],
)
def test_bad_controls_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_variants(text, FlowConfig)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("task", "couplings", "said"),
    [
        ("ddim", "independent[start=components:8@0.5]", "got ddpm for diffusion: leave the start at auto"),
        ("ddim", "independent,knn:4[start=source]", "samples that start from the source of knn:4 need a sampler"),
        ("ddim", "independent,components:4", "samples that start from the source of components:4"),
        ("flow", "independent,components:4[start=components:8@0.5]", "which has a source of its own: leave the start"),
        ("policy", "independent,prior:components:8", "needs a system that draws plain images, got policy"),
    ],
)
def test_controls_that_a_system_cannot_have_are_refused_before_any_training(
    task: str, couplings: str, said: str
) -> None:
    config = comparison_of(task)(couplings=couplings, sampler="ddpm" if task == "ddim" else "auto")
    samplers = parse_samplers(task, config.nfe, config.sampler)
    with pytest.raises(InputError) as caught:
        check_starts(config, variants_of(config), samplers)
    assert said in str(caught.value)
    assert "in --couplings" in str(caught.value)
