// Re-exports AutoEP, linked with flags that a target under test cannot have.
@_exported import AutoEP
