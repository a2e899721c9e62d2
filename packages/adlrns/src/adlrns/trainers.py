"""Training loops."""

from adlrns_models import ADLRNSTrainer

__all__ = ["ADLRNSTrainer"]
