extension KernelSource {
  /// The products of rows and their experts' weights, with what follows them fused.
  static let hopperGEMM = KernelSource(
    "sm90_bf16_grouped_gemm.cu", PackageResources.sm90_bf16_grouped_gemm_cu, .sm90a,
    axes: [
      HopperEpilogue.allCases.flatMap { epilogue in
        [true, false].map { epilogue.defines(isDepthInner: $0) }
      }
    ])

  /// The gradient of the weights.
  static let hopperWeightGradient = KernelSource(
    "sm90_bf16_weight_grad.cu", PackageResources.sm90_bf16_weight_grad_cu, .sm90a,
    axes: [HopperGradientOutput.allCases.map(\.defines)])

  /// The row tiles of all experts.
  static let hopperTileList = KernelSource("sm90_tile_list.cu", PackageResources.sm90_tile_list_cu)
}

/// What a product is turned into before it leaves the registers; raw values are the kernel's.
enum HopperEpilogue: Int, CaseIterable {
  case store = 1
  case swiGLU = 2
  case swiGLUBackward = 3

  /// The backward's consumers stage a whole tile, which leaves room for fewer stages.
  var memory: HopperMemory {
    self == .swiGLUBackward
      ? HopperMemory(stages: 3, stagingChunks: 4) : HopperMemory(stages: 4, stagingChunks: 2)
  }

  func defines(isDepthInner: Bool) -> KernelSource.Choice {
    memory.defines + KernelVariant.define("B_MAJOR", isDepthInner ? 0 : 1)
      + KernelVariant.define("EPILOGUE", rawValue)
  }
}

/// How a weight's gradient is written; raw values are the kernel's.
enum HopperGradientOutput: Int, CaseIterable {
  case bf16 = 0
  case f32 = 1
  case addedToF32 = 2

  static let memory = HopperMemory(stages: 4, stagingChunks: 2)

  var defines: KernelSource.Choice {
    Self.memory.defines + KernelVariant.define("OUTPUT", rawValue)
  }
}

/// How a kernel of sm90_tiles.cuh shares out its block's memory.
struct HopperMemory {
  let stages: Int
  let stagingChunks: Int

  var defines: KernelSource.Choice {
    KernelVariant.define("STAGES", stages) + KernelVariant.define("STAGING_CHUNKS", stagingChunks)
  }

  /// The layout of sm90_tiles.cuh, and what aligning its start may take.
  var byteCount: Int {
    let (stage, chunk, consumerWarps, barrier) = (48 << 10, 2 << 10, 8, 8)
    return 1023 + stages * stage + consumerWarps * stagingChunks * chunk
      + (2 * stages + 2 * consumerWarps) * barrier
  }
}
