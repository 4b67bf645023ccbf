"""What plans count of a shape by arithmetic, against the model that transformers makes of it."""

from __future__ import annotations

import pytest
from helpers.configs import settings_of

from lume_run.models.load import context_limit
from lume_run.models.weights import ShapedConfig, meta_model, olmo_config
from lume_run.pipeline.memory.sizes import sizes_of

SHAPES = (
    (),
    ("model.shape.tie_embeddings=true",),
    ("model.shape.heads=4", "+model.shape.key_value_heads=2", "+model.shape.head_dim=8"),
)
CHOICES = (
    (),
    ("model.trainable=['*mlp*']",),
    ("model.trainable=[lm_head*,'*layers.0.*']",),
    ("method=rmu",),
    ("method=rmu", "method.forget.layer=1", "method.retain.layer=1"),
    ("method=kl", "model.lora=true"),
    ("method=npo", "model.lora={enabled: true, rank: 3, target_modules: [q_proj]}"),
)


@pytest.mark.parametrize("shape", SHAPES)
def test_names_and_shapes_are_the_models(shape):
    settings = settings_of(*shape)
    config = ShapedConfig(shape=settings.model.shape)
    weights = {name: tuple(weight.shape) for name, weight in meta_model(config).named_parameters()}
    assert list(weights.items()) == list(config.weights.items())
    theirs = olmo_config(settings.model.shape)
    assert context_limit(config, settings.model) == context_limit(theirs, settings.model)
    assert config.model_type == theirs.model_type


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stage", ["train", "unlearn"])
def test_sizes_are_the_models(stage, shape, choice):
    settings = settings_of(*shape, *choice)
    shaped = ShapedConfig(shape=settings.model.shape)
    assert sizes_of(settings, shaped, stage) == sizes_of(settings, olmo_config(settings.model.shape), stage)
