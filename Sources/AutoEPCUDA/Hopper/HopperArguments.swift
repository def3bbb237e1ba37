import AutoEPCore
import CCUDA
import CKernels

// The structs that Hopper's kernels take by value, field by field. Tensor maps, which C++ aligns to 64 bytes,
// come first, so that Swift and C++ lay the fields out alike.

extension cuda_tensor_map: KernelArgument {
  var bits: cuda_tensor_map { self }
}

/// `Target` of sm90_pipeline.cuh.
struct HopperTarget: BitwiseCopyable {
  let chunks: cuda_tensor_map
  let rows: cuda_tensor_map
}

/// `StoreEpilogue::Arguments`.
struct HopperStoreArguments: BitwiseCopyable, KernelArgument {
  let out: HopperTarget
  let bias: UInt64
  let columns: Int32

  static var alignment: Int { TensorMap.alignment }
  var bits: Self { self }
}

/// `SwiGLUEpilogue::Arguments`.
struct HopperSwiGLUArguments: BitwiseCopyable, KernelArgument {
  let hidden: HopperTarget
  let out: HopperTarget
  let columns: Int32

  static var alignment: Int { TensorMap.alignment }
  var bits: Self { self }
}

/// `SwiGLUBackwardEpilogue::Arguments`.
struct HopperSwiGLUBackwardArguments: BitwiseCopyable, KernelArgument {
  let hidden: UInt64
  let gradHidden: UInt64
  let scaled: UInt64
  let rowWeights: UInt64
  let dots: UInt64
  let columns: Int32

  var bits: Self { self }
}

/// `InPlace::Arguments`: an empty struct, which C++ passes as one byte.
struct HopperInPlaceArguments: KernelArgument {
  var bits: UInt8 { 0 }
}

/// `CopiedAhead::Arguments`.
struct HopperCopiedAheadArguments: BitwiseCopyable, KernelArgument {
  let tokens: UInt64
  let rows: UInt64
  let slotOfRow: UInt64
  let rowCount: UInt64
  let counters: UInt64
  let topK: Int32
  let vectors: Int32

  var bits: Self { self }
}

/// The weights of all experts as the right operand of a GEMM.
struct HopperWeights {
  let tensor: TensorView
  /// Whether the depth of the product is the innermost dimension.
  let isDepthInner: Bool
  /// The columns of each half.
  let columns: Int
  private let depth: Int
  private let halves: Int

  /// `layout` is that of the product: `.outIn` is `[E, columns, depth]`. With two halves, the columns
  /// are two matrices side by side, tiled together.
  init(_ tensor: TensorView, _ layout: WeightLayout, halves: Int) {
    self.tensor = tensor
    self.halves = halves
    isDepthInner = layout == .outIn
    let (outer, inner) = (tensor.shape[1], tensor.shape[2])
    columns = (isDepthInner ? outer : inner) / halves
    depth = isDepthInner ? inner : outer
  }

  /// The sizes, innermost dimension first.
  var sizes: InlineArray<4, Int> {
    isDepthInner
      ? [depth, columns, halves, tensor.shape[0]] : [columns, halves, depth, tensor.shape[0]]
  }

  /// The box that one TMA load moves: half of a tile's columns, or `BOX` of them.
  var box: InlineArray<4, Int> { isDepthInner ? [TILE_K, TILE_N / 2, 1, 1] : [BOX, 1, TILE_K, 1] }
}
