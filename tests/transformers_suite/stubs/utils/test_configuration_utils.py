"""Stands for the values that transformers' repository gives to the fields of every configuration."""

config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["AModel"],
    "id2label": {0: "LABEL_0", 1: "LABEL_1", 2: "other"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "other": 2},
    "problem_type": "regression",
}
