"""Where models come from: data, the synthetic hospital, fitting, evaluation."""
