import AutoEPCore
import AutoEPSystem

/// A tensor of a backend, and its values.
struct LawTensor {
  let view: TensorView
  let values: [Double]

  /// The first rows.
  func first(_ rows: Int) -> LawTensor {
    let shape = [rows] + view.shape.dropFirst()
    return LawTensor(
      view: TensorView(view.storage, shape: shape, dtype: view.dtype),
      values: Array(values.prefix(shape.reduce(1, *))))
  }
}

/// The backend, memory, type and random numbers of one law's run.
final class BackendRun {
  let backend: any ComputeBackend
  let dtype: DataType
  let hasLargeSizes: Bool
  let record: LawRecord
  var random: LawRandom
  private let heap: LawHeap
  /// The results of the first run, in order; the rerun compares them one by one.
  private var results: [[Double]] = []
  private var nextResult: Int?
  private static let seed = 20

  init(
    _ backend: any ComputeBackend, _ memory: any LawMemory, _ dtype: DataType,
    hasLargeSizes: Bool, _ record: LawRecord
  ) {
    self.backend = backend
    self.dtype = dtype
    self.hasLargeSizes = hasLargeSizes
    self.record = record
    heap = LawHeap(memory)
    random = LawRandom(Self.seed)
  }

  /// Starts the rerun.
  func startAgain() throws {
    try heap.release(record)
    random = LawRandom(Self.seed)
    nextResult = 0
  }

  /// Ends the rerun.
  func end() throws {
    record.expect(nextResult == results.count, "the rerun had other results to compare")
    try heap.release(record)
  }

  // MARK: Tensors

  /// Random values of mean 0 and variance 1, rounded to the type.
  func random(_ shape: [Int], _ dtype: DataType? = nil) throws -> LawTensor {
    try tensor(random.values(shape.reduce(1, *)), shape, dtype)
  }

  /// Values, rounded to the type.
  func tensor(_ values: [Double], _ shape: [Int], _ dtype: DataType? = nil) throws -> LawTensor {
    let dtype = dtype ?? self.dtype
    return LawTensor(
      view: try heap.tensor(values, shape, dtype), values: values.map { dtype.rounded($0) })
  }

  /// Integers.
  func integers(_ values: [Int], _ shape: [Int]? = nil, _ dtype: DataType = .i32) throws
    -> TensorView
  {
    try heap.tensor(values.map { Double($0) }, shape ?? [values.count], dtype)
  }

  /// A tensor to be written, which holds NaN.
  func output(_ shape: [Int], _ dtype: DataType? = nil) throws -> TensorView {
    try heap.empty(shape, dtype ?? self.dtype)
  }

  /// Memory of exactly so many bytes.
  func arena(_ byteCount: Int) throws -> Arena { try heap.arena(byteCount) }

  /// The current values of a tensor.
  func values(_ tensor: TensorView) throws -> [Double] { try heap.values(tensor) }

  // MARK: Results

  /// Computes a reference, in the first run only: the rerun is compared with the first run.
  func reference<Reference>(_ body: () -> Reference) -> Reference? {
    nextResult == nil ? body() : nil
  }

  /// Expects the reference's values within the type's tolerance; in a rerun, the bits of the first run.
  ///
  /// - Parameter reference: The expected leading elements; nil in a rerun.
  func expect(
    _ tensor: TensorView, _ reference: @autoclosure () -> [Double]?, roundings: Int = 1,
    tolerance: Double? = nil, _ what: @autoclosure () -> String
  ) throws {
    let values = try heap.values(tensor)
    guard !isRerun(values, what()), let reference = reference() else { return }
    record.compare(
      Array(values.prefix(reference.count)), reference,
      within: tolerance ?? tensor.dtype.tolerance(roundings: roundings), what())
  }

  /// Expects the reference's bits; in a rerun, also those of the first run.
  func expectExactly(
    _ tensor: TensorView, _ reference: @autoclosure () -> [Double]?,
    _ what: @autoclosure () -> String
  ) throws {
    let values = try heap.values(tensor)
    guard !isRerun(values, what()), let reference = reference() else { return }
    record.expectSame(Array(values.prefix(reference.count)), reference, what())
  }

  /// Expects the backend to refuse invalid data: in the call, or when it is asked later.
  func expectBadData(
    _ output: TensorView, saying parts: [String], _ what: String, _ body: () throws -> Void
  ) throws {
    let isHost = backend.space == .host
    record.expectError([.invalidArgument], saying: isHost ? parts : [], what) {
      try body()
      _ = try heap.values(output)
      try backend.checkFaults()
    }
  }

  /// Whether this is the rerun; compares it with the first run.
  private func isRerun(_ values: [Double], _ what: @autoclosure () -> String) -> Bool {
    guard let index = nextResult else {
      results.append(values)
      return false
    }
    nextResult = index + 1
    if index < results.count { record.expectSame(values, results[index], "a rerun, \(what())") }
    return true
  }
}
