"""Kernels for GPUs, in Triton. Importing a file of this folder needs the extra `triton`.

They are tested in Triton's interpreter and compiled ahead of time for sm_80 and sm_90; they have
not yet been measured on a GPU.
"""
