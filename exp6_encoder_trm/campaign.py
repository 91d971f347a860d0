"""x."""


def parse_pretrain(presets, context):
    return None
