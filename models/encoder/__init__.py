"""Text to logit: template, tokens, batches, forward pass, artifact.

`loading.load` opens a model. It needs torch and transformers, which take seconds; `base` and `batches` need neither.
"""
