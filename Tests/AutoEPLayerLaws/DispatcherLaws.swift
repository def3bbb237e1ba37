import AutoEPCore

/// The configuration of a check of a dispatcher's laws.
public struct DispatcherSetting: Sendable {
  /// The memory that the backend computes in.
  public var memory: any LawMemory = HostMemory()
  /// The types of x.
  public var dtypes: [DataType] = [.f64, .f32]
  /// The sizes of the worlds.
  public var sizes = [1, 2, 3, 4]
  /// The rank of the first dispatcher that `makeWorld` returns; other processes check the remaining ranks.
  public var firstRank = 0
  /// Whether results must have the bits of a single rank. Otherwise they must be within the tolerances.
  public var isBitwise = true
  /// Whether all ranks compute on one device, whose faults then show on any of them.
  public var ranksShareDevice = false
  /// Checks only the laws whose name contains this.
  public var filter = ""
  /// Called with each law's outcome as soon as it has been checked.
  public var report: @Sendable (LawOutcome) -> Void = { _ in }

  /// Checks all laws, in this process, in host memory.
  public init() {}
}

/// Checks the laws that every token dispatcher obeys: a pass over any number of ranks gives the results of one rank
/// with all tokens and experts; rows and numbers arrive at the right slots; invalid indices, plans and sizes are
/// refused on every rank; and no function uses more memory than its size function returns.
///
/// - Parameters:
///   - backend: Computes on all ranks, and the reference.
///   - makeWorld: Makes the ranks of a group that are in this process; each runs in a thread of its own. Every call
///     makes another layer, with a new number.
public func checkDispatcher(
  on backend: any ComputeBackend, _ setting: DispatcherSetting = DispatcherSetting(),
  _ makeWorld:
    @escaping (_ configuration: ExpertsConfiguration, _ ranks: Int) throws -> [any TokenDispatcher]
) throws {
  var outcomes: [LawOutcome] = []
  for dtype in setting.dtypes {
    for size in setting.sizes {
      for law in try chosen(DispatcherLaw.all, \.name, setting.filter) {
        let outcome = check("\(law.name), \(size) ranks, \(dtype.name)") { record in
          try law.check(
            DispatcherWorlds(
              backend: backend, setting: setting, dtype: dtype, size: size, record: record,
              make: makeWorld))
        }
        setting.report(outcome)
        outcomes.append(outcome)
      }
    }
  }
  try conclude(outcomes)
}

/// The name of each law of a dispatcher.
public var dispatcherLawNames: [String] { DispatcherLaw.all.map(\.name) }

/// One law of a dispatcher.
struct DispatcherLaw {
  let name: String
  let check: (DispatcherWorlds) throws -> Void

  init(_ name: String, _ check: @escaping (DispatcherWorlds) throws -> Void) {
    self.name = name
    self.check = check
  }

  static var all: [DispatcherLaw] { passLaws + rowLaws + valueLaws + planLaws }
}

/// Makes the worlds of a law.
struct DispatcherWorlds {
  let backend: any ComputeBackend
  let setting: DispatcherSetting
  let dtype: DataType
  let size: Int
  let record: LawRecord
  let make: (ExpertsConfiguration, Int) throws -> [any TokenDispatcher]

  /// Runs `body` on each rank of this process for a case, and checks that nothing was written out of bounds.
  func run<Result: Sendable>(
    _ item: DispatchCase, _ body: @escaping @Sendable (DispatcherRank) throws -> Result
  ) throws -> [Result] {
    try run(item, [try make(item.configuration, size)], body)
  }

  /// Runs `body` on worlds of several layers.
  func run<Result: Sendable>(
    _ item: DispatchCase, layers: Int, _ body: @escaping @Sendable (DispatcherRank) throws -> Result
  ) throws -> [Result] {
    try run(item, (0..<layers).map { _ in try make(item.configuration, size) }, body)
  }

  private func run<Result: Sendable>(
    _ item: DispatchCase, _ worlds: [[any TokenDispatcher]],
    _ body: @escaping @Sendable (DispatcherRank) throws -> Result
  ) throws -> [Result] {
    let heap = LawHeap(setting.memory)
    let split = item.split(over: size)
    let ranks = worlds[0].indices.map { index in
      DispatcherRank(
        backend: backend, layers: worlds.map { $0[index] }, item: item, heap: heap, record: record,
        rank: setting.firstRank + index, size: size, tokens: split[setting.firstRank + index])
    }
    let results = try runRanks(ranks, body)
    try heap.release(record)
    return results
  }

  /// Whether all ranks are in this process.
  func isWhole<Result>(_ results: [Result]) -> Bool { results.count == size }

  /// Compares bitwise, or within the tolerances: each rank rounds its sum of a token's rows, and the owner their sum.
  func compare(_ got: [Double], _ expected: [Double], _ what: String) {
    if setting.isBitwise {
      record.expectSame(got, expected, what)
    } else {
      record.compare(got, expected, within: dtype.tolerance(roundings: 2), what)
    }
  }
}

/// One rank of a world: its dispatchers, tokens and memory.
struct DispatcherRank: Sendable {
  let backend: any ComputeBackend
  /// The rank's dispatcher of each layer.
  let layers: [any TokenDispatcher]
  let item: DispatchCase
  let heap: LawHeap
  let record: LawRecord
  let rank: Int
  let size: Int
  /// This rank's tokens among all tokens.
  let tokens: Range<Int>

  var dispatcher: any TokenDispatcher { layers[0] }
  var configuration: ExpertsConfiguration { item.configuration }
  var layer: ExpertsLayer {
    ExpertsLayer(configuration, backend: backend, dispatcher: dispatcher)
  }
  /// This rank's slots among all slots.
  var slots: Range<Int> {
    tokens.lowerBound * configuration.topK..<tokens.upperBound * configuration.topK
  }

  /// This rank's part of `width` values per token.
  func own(_ values: [Double], width: Int) -> [Double] {
    Array(values[tokens.lowerBound * width..<tokens.upperBound * width])
  }

  /// A tensor of this rank's part.
  func tensor(_ values: [Double], width: Int, _ dtype: DataType? = nil) throws -> TensorView {
    try heap.tensor(
      own(values, width: width), [tokens.count, width], dtype ?? configuration.dtype)
  }

  /// This rank's topk_idx.
  func choice(_ dtype: DataType = .i32) throws -> TensorView {
    try tensor(item.choice.map { Double($0) }, width: configuration.topK, dtype)
  }

  /// This rank's topk_weights.
  func topkWeights() throws -> TensorView {
    try tensor(item.topkWeights, width: configuration.topK, configuration.dtype.sumType)
  }

  /// Memory for a plan, of exactly its size.
  func planMemory(numTokens: Int? = nil) throws -> Arena {
    try heap.arena(dispatcher.planBytes.of(numTokens ?? tokens.count))
  }

  /// Makes a plan.
  func makePlan(in memory: Arena, counts: PlanCounts = PlanCounts()) throws -> RowCount {
    var arena = try heap.arena(dispatcher.planScratchBytes(numTokens: tokens.count))
    return try dispatcher.plan(choice(), counts: counts, in: memory, &arena)
  }

  /// Opens a plan; its memory lives as long as the heap.
  func open(_ memory: Arena, _ rowCount: RowCount) throws -> DispatchPlan {
    var arena = try heap.arena(dispatcher.openBytes(rowCount))
    return try dispatcher.open(memory, numTokens: tokens.count, rowCount: rowCount, &arena)
  }

  /// Makes and opens a plan.
  func plan() throws -> DispatchPlan {
    let memory = try planMemory()
    return try open(memory, makePlan(in: memory))
  }

  /// An arena of exactly the size that one exchange asks for.
  func exchangeArena(_ plan: DispatchPlan) throws -> Arena {
    try heap.arena(
      dispatcher.exchangeBytes(numTokens: tokens.count, plan.rowCount))
  }

  /// The slots whose rows this rank's experts get, in expert order.
  var slotsOfRows: [Int] {
    item.sort.slotOfRow.filter { dispatcher.experts.contains(item.choice[$0]) }
  }
}
