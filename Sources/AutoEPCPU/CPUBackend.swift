import AutoEPCore
