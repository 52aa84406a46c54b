"""Configurations of tiny encoders, from which tests of the methods start."""

SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "drop_path_rate": 0.0,
}
VIDEO_SWIN = {
    "model_type": "refseg_video_swin",
    "embed_dim": 8,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": [2, 4, 4],
    "drop_path_rate": 0.0,
}
# As wide as those of clips.
IMAGE_SWIN = {**SWIN, "embed_dim": VIDEO_SWIN["embed_dim"]}
# Two stages, the first with shifted windows.
TWO_STAGES = {"depths": [2, 1], "num_heads": [1, 2]}
# As few as LAVT's decoder takes whatever it reads.
THREE_STAGES = {"depths": [1, 1, 1], "num_heads": [1, 1, 2]}
BERT = {
    "model_type": "bert",
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
SHORT_BERT = {**BERT, "num_hidden_layers": 1}
CLIP = {**BERT, "model_type": "clip_text_model"}
SAM = {
    "model_type": "sam_vision_model",
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "global_attn_indexes": [0, 1, 2, 3],
    "window_size": 2,
    "image_size": 64,
    "patch_size": 8,
    "initializer_range": 0.02,
}
