/// A file that kernels include by name.
struct KernelHeader: Sendable {
  let name: String
  let text: [UInt8]

  /// All headers in the folder of kernels.
  static let all = [
    KernelHeader(name: "activation.cuh", text: PackageResources.activation_cuh),
    KernelHeader(name: "chunk.cuh", text: PackageResources.chunk_cuh),
    KernelHeader(name: "element.cuh", text: PackageResources.element_cuh),
    KernelHeader(name: "f32_tile.cuh", text: PackageResources.f32_tile_cuh),
    KernelHeader(name: "fault.cuh", text: PackageResources.fault_cuh),
    KernelHeader(name: "groups.cuh", text: PackageResources.groups_cuh),
    KernelHeader(name: "host_and_device.h", text: PackageResources.host_and_device_h),
    KernelHeader(name: "instructions.cuh", text: PackageResources.instructions_cuh),
    KernelHeader(name: "integers.cuh", text: PackageResources.integers_cuh),
    KernelHeader(name: "numbers.cuh", text: PackageResources.numbers_cuh),
    KernelHeader(name: "operand.cuh", text: PackageResources.operand_cuh),
    KernelHeader(name: "product_tile.cuh", text: PackageResources.product_tile_cuh),
    KernelHeader(name: "push_layout.h", text: PackageResources.push_layout_h),
    KernelHeader(name: "push_steps.h", text: PackageResources.push_steps_h),
    KernelHeader(name: "router.cuh", text: PackageResources.router_cuh),
    KernelHeader(name: "search.cuh", text: PackageResources.search_cuh),
    KernelHeader(name: "sm90_epilogue_store.cuh", text: PackageResources.sm90_epilogue_store_cuh),
    KernelHeader(name: "sm90_epilogue_swiglu.cuh", text: PackageResources.sm90_epilogue_swiglu_cuh),
    KernelHeader(
      name: "sm90_epilogue_swiglu_backward.cuh",
      text: PackageResources.sm90_epilogue_swiglu_backward_cuh),
    KernelHeader(name: "sm90_instructions.cuh", text: PackageResources.sm90_instructions_cuh),
    KernelHeader(name: "sm90_pipeline.cuh", text: PackageResources.sm90_pipeline_cuh),
    KernelHeader(name: "sm90_row_pairs.cuh", text: PackageResources.sm90_row_pairs_cuh),
    KernelHeader(name: "sm90_row_source.cuh", text: PackageResources.sm90_row_source_cuh),
    KernelHeader(name: "sm90_rows_ahead.cuh", text: PackageResources.sm90_rows_ahead_cuh),
    KernelHeader(name: "sm90_schedule.cuh", text: PackageResources.sm90_schedule_cuh),
    KernelHeader(name: "tensor_core_tile.cuh", text: PackageResources.tensor_core_tile_cuh),
    KernelHeader(name: "warp.cuh", text: PackageResources.warp_cuh),
  ]

  /// A hash of all headers, part of every image's cache key: a change to any header recompiles every kernel. Such
  /// changes are rare, and tracking the includes of each source would be error-prone.
  static let digest = SHA256.hash(all.flatMap { $0.text })
}
