import AutoEPCPU
