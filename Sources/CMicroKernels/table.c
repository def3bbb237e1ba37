#include "micro_kernels.h"
