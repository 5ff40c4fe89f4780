"""Pretrained weights of the backbones: where they come from, and whether they fit."""
