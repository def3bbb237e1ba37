import CNCCL

/// NCCL's own object of a communicator.
@safe
struct NCCLHandle: @unchecked Sendable {
  let communicator: nccl_communicator
}
