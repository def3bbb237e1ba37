// Nothing but the exports of AutoEP, linked with the flags that a tested target cannot take.
@_exported import AutoEP
