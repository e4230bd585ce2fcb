"""Steps that the attention kernels share; no operation of its own."""
