import CKernels

extension KernelSource {
  /// The GEMMs of rows and their experts' weights, with fused epilogues.
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
    axes: [
      HopperGradientOutput.allCases.flatMap { output in
        HopperRowSource.allCases.map { output.defines + $0.defines }
      }
    ])

  /// The list of row pairs.
  static let hopperRowPairs = KernelSource("sm90_row_pairs.cu", PackageResources.sm90_row_pairs_cu)
}

/// The epilogue: how a kernel processes its product before it stores it.
enum HopperEpilogue: CaseIterable {
  case store
  case swiGLU
  case swiGLUBackward

  private var code: Int {
    switch self {
    case .store: EPILOGUE_STORE
    case .swiGLU: EPILOGUE_SWIGLU
    case .swiGLUBackward: EPILOGUE_SWIGLU_BACKWARD
    }
  }

  /// The backward's consumers stage a whole tile, which leaves memory for fewer stages.
  var memory: HopperMemory {
    self == .swiGLUBackward
      ? HopperMemory(stages: 3, stagingChunks: 4) : HopperMemory(stages: 4, stagingChunks: 2)
  }

  func defines(isDepthInner: Bool) -> KernelSource.Defines {
    memory.defines + KernelVariant.define("B_MAJOR", isDepthInner ? 0 : 1)
      + KernelVariant.define("EPILOGUE", code)
  }
}

/// How a weight's gradient is written.
enum HopperGradientOutput: CaseIterable {
  case bf16
  case f32
  case addedToF32

  static let memory = HopperMemory(stages: 4, stagingChunks: 2)

  private var code: Int {
    switch self {
    case .bf16: GRADIENT_BF16
    case .f32: GRADIENT_F32
    case .addedToF32: GRADIENT_ADDED_TO_F32
    }
  }

  var defines: KernelSource.Defines {
    Self.memory.defines + KernelVariant.define("OUTPUT", code)
  }
}

/// The source of a GEMM's rows.
enum HopperRowSource: CaseIterable {
  /// The rows are in memory before the launch.
  case inPlace
  /// The kernel copies the rows from the tokens; see `RowsAhead`.
  case copiedAhead

  var defines: KernelSource.Defines {
    KernelVariant.define("ROWS", self == .inPlace ? ROWS_IN_PLACE : ROWS_COPIED_AHEAD)
  }
}

/// The partition of a block's shared memory; see sm90_pipeline.cuh.
struct HopperMemory {
  let stages: Int
  let stagingChunks: Int

  var defines: KernelSource.Defines {
    KernelVariant.define("STAGES", stages) + KernelVariant.define("STAGING_CHUNKS", stagingChunks)
  }

  var byteCount: Int { Int(sm90_shared_bytes(Int32(stages), Int32(stagingChunks))) }
}
