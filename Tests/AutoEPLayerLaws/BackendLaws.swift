import AutoEPCore

/// Checks the laws of `ComputeBackend`: each step gives the results of plain loops in f64 on the same values; a rerun
/// has the same bits; a row's result depends neither on its position nor on its neighbours; no step writes outside its
/// outputs, or uses more of an arena than its size function returns.
///
/// - Parameters:
///   - dtypes: The types that the backend computes with; each law is checked for each.
///   - hasLargeSizes: Whether products around the tiles of 128 and 256 rows are among the sizes.
///   - filter: Checks only the laws whose name contains this.
///   - report: Called with each law's outcome as soon as it has been checked.
public func checkBackend(
  _ backend: any ComputeBackend, memory: any LawMemory, dtypes: [DataType],
  hasLargeSizes: Bool = true, filter: String = "",
  report: (LawOutcome) -> Void = { _ in }
) throws {
  var outcomes: [LawOutcome] = []
  for law in try chosen(BackendLaw.all, \.name, filter) {
    for dtype in law.dependsOnType ? dtypes : [dtypes[0]] {
      let name = law.dependsOnType ? "\(law.name), \(dtype.name)" : law.name
      let outcome = check(name) { record in
        try checkTwice(
          law, BackendRun(backend, memory, dtype, hasLargeSizes: hasLargeSizes, record))
      }
      report(outcome)
      outcomes.append(outcome)
    }
  }
  try conclude(outcomes)
}

/// The name of each law of a backend.
public var backendLawNames: [String] { BackendLaw.all.map(\.name) }

/// Runs a law twice; the second run compares its results with those of the first.
private func checkTwice(_ law: BackendLaw, _ run: BackendRun) throws {
  try law.check(run)
  try run.startAgain()
  try law.check(run)
  try run.end()
}

/// One law of a backend.
struct BackendLaw: Sendable {
  let name: String
  let dependsOnType: Bool
  let check: @Sendable (BackendRun) throws -> Void

  init(
    _ name: String, dependsOnType: Bool = true,
    _ check: @escaping @Sendable (BackendRun) throws -> Void
  ) {
    self.name = name
    self.dependsOnType = dependsOnType
    self.check = check
  }

  static var all: [BackendLaw] {
    sortLaws + permutationLaws + rowValueLaws + arrivalLaws + rankLaws + productLaws + rowSumLaws
      + activationLaws
      + expertsLaws + independenceLaws + routingLaws
  }
}
