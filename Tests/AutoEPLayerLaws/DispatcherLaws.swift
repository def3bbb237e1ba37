import AutoEPCore

/// Where and how a dispatcher's laws are checked.
public struct DispatcherSetting: Sendable {
  /// The memory that the backend computes in.
  public var memory: any LawMemory = HostMemory()
  /// The types of x.
  public var dtypes: [DataType] = [.f64, .f32]
  /// The sizes of the worlds.
  public var sizes = [1, 2, 3, 4]
  /// The rank of the first dispatcher that `makeWorld` gives; other processes check the ranks that it does not give.
  public var firstRank = 0
  /// Whether results have the bits of a rank alone. Where not, they are as close as tolerances allow.
  public var isBitwise = true
  /// Only the laws whose name contains this.
  public var filter = ""
  /// Told of each law as soon as it has been checked.
  public var report: @Sendable (LawOutcome) -> Void = { _ in }

  /// All laws, in this process, in host memory.
  public init() {}
}

/// Checks the laws that every token dispatcher obeys: a pass over any number of ranks is the pass of one rank with all
/// tokens and all experts; what travels arrives where it should; wrong choices, plans and sizes are refused on every
/// rank; and nothing takes more memory than it asked for.
///
/// - Parameters:
///   - backend: Computes on all ranks, and the reference.
///   - makeWorld: Makes the ranks of a group, each of which then runs in a thread of its own: all of them, or those
///     of this process. Every call makes another layer, with a number of its own.
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

/// What a law makes its worlds of.
struct DispatcherWorlds {
  let backend: any ComputeBackend
  let setting: DispatcherSetting
  let dtype: DataType
  let size: Int
  let record: LawRecord
  let make: (ExpertsConfiguration, Int) throws -> [any TokenDispatcher]

  /// Runs `body` on each rank of this process, for a case; checks that nothing was written out of bounds.
  func run<Result: Sendable>(
    _ item: DispatchCase, _ body: @escaping @Sendable (DispatcherRank) throws -> Result
  ) throws -> [Result] {
    try run(item, [try make(item.configuration, size)], body)
  }

  /// The same, on worlds of several layers.
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

  /// Compares by bits, or as close as tolerances allow.
  func compare(_ got: [Double], _ expected: [Double], _ what: String) {
    if setting.isBitwise {
      record.expectSame(got, expected, what)
    } else {
      record.compare(got, expected, within: dtype.tolerance(), what)
    }
  }
}

/// One rank of a world: its dispatchers, tokens and memory.
struct DispatcherRank: Sendable {
  let backend: any ComputeBackend
  /// The dispatcher of each layer.
  let layers: [any TokenDispatcher]
  let item: DispatchCase
  let heap: LawHeap
  let record: LawRecord
  let rank: Int
  let size: Int
  /// Of all tokens, those of this rank.
  let tokens: Range<Int>

  var dispatcher: any TokenDispatcher { layers[0] }
  var configuration: ExpertsConfiguration { item.configuration }
  var layer: ExpertsLayer {
    ExpertsLayer(configuration, backend: backend, dispatcher: dispatcher)
  }
  /// Of all slots, those of this rank.
  var slots: Range<Int> {
    tokens.lowerBound * configuration.topK..<tokens.upperBound * configuration.topK
  }

  /// This rank's part of values per token, each of a width.
  func own(_ values: [Double], width: Int) -> [Double] {
    Array(values[tokens.lowerBound * width..<tokens.upperBound * width])
  }

  /// A tensor of this rank's part.
  func tensor(_ values: [Double], width: Int, _ dtype: DataType? = nil) throws -> TensorView {
    try heap.tensor(
      own(values, width: width), [tokens.count, width], dtype ?? configuration.dtype)
  }

  /// topk_idx of this rank.
  func choice(_ dtype: DataType = .i32) throws -> TensorView {
    try tensor(item.choice.map { Double($0) }, width: configuration.topK, dtype)
  }

  /// topk_weights of this rank.
  func topkWeights() throws -> TensorView {
    try tensor(item.topkWeights, width: configuration.topK, configuration.dtype.sumType)
  }

  /// Memory of a plan, exactly as large as it says.
  func planMemory(numTokens: Int? = nil) throws -> Arena {
    try heap.arena(dispatcher.planBytes.of(numTokens ?? tokens.count))
  }

  /// Makes a plan.
  func makePlan(in memory: Arena, counts: PlanCounts = PlanCounts()) throws -> RowCount {
    var arena = try heap.arena(dispatcher.planScratchBytes(numTokens: tokens.count))
    return try dispatcher.plan(choice(), counts: counts, in: memory, &arena)
  }

  /// Opens a plan; what that keeps of its arena lives as long as the heap.
  func open(_ memory: Arena, _ rowCount: RowCount) throws -> DispatchPlan {
    var arena = try heap.arena(dispatcher.openBytes(rowsCapacity: rowCount.capacity))
    return try dispatcher.open(memory, numTokens: tokens.count, rowCount: rowCount, &arena)
  }

  /// A plan, made and opened.
  func plan() throws -> DispatchPlan {
    let memory = try planMemory()
    return try open(memory, makePlan(in: memory))
  }

  /// The arena of one exchange, exactly as large as the dispatcher asks.
  func exchangeArena(_ plan: DispatchPlan) throws -> Arena {
    try heap.arena(
      dispatcher.exchangeBytes(numTokens: tokens.count, rowsCapacity: plan.rowsCapacity))
  }

  /// Rows that the experts of this rank get, in expert order: of all slots, those that chose them.
  var slotsOfRows: [Int] {
    item.sort.slotOfRow.filter { dispatcher.experts.contains(item.choice[$0]) }
  }
}
