//! What a training run keeps: configuration, checkpoints, metrics, its folder.
