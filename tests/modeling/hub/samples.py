"""What the tests of this folder push."""

MODEL, REPO = "user/vqa", "models/user/vqa"
WEIGHTS = bytes(range(256)) * 400  # over the buffers of a connection, so that an upload can die half way
CARD = """---
license: mit
base_model: dandelin/vilt-b32-mlm
pipeline_tag: visual-question-answering
model-index:
- name: model
  results:
  - task: {type: visual-question-answering}
    dataset: {name: SLAKE, type: BoKelvin/SLAKE}
    metrics: [{type: accuracy, value: 0.8}]
---
# A model
"""
