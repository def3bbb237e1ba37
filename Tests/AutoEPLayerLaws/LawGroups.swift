import AutoEPCore

/// The rows of each group, in each form that a backend accepts.
struct LawGroups {
  /// The form of the bounds.
  enum Kind: CaseIterable {
    case counts32
    case counts64
    case offsets
    /// Offsets, prepared by the backend.
    case prepared
  }

  let groups: RowGroups
  let counts: [Int]
  /// The rows that tensors have room for; offsets may end earlier.
  let capacity: Int

  /// The rows of all groups.
  var inUse: Int { counts.reduce(0, +) }

  /// - Parameter widths: The widths of the rows before and after the products that `prepare` is for.
  init(
    _ run: BackendRun, _ counts: [Int], _ kind: Kind, spareRows: Int = 0,
    widths: (Int, Int) = (8, 8)
  ) throws {
    self.counts = counts
    let inUse = counts.reduce(0, +)
    switch kind {
    case .counts32, .counts64:
      capacity = inUse
      groups = .counts(try run.integers(counts, nil, kind == .counts32 ? .i32 : .i64))
    case .offsets, .prepared:
      capacity = inUse + spareRows
      let offsets = RowGroups.Bounds.offsets(
        try run.integers(counts.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1) }))
      groups =
        kind == .offsets
        ? RowGroups(offsets)
        : try Self.prepared(run, offsets, counts.count, capacity, widths)
    }
  }

  private static func prepared(
    _ run: BackendRun, _ bounds: RowGroups.Bounds, _ count: Int, _ capacity: Int,
    _ widths: (Int, Int)
  ) throws -> RowGroups {
    let configuration = ExpertsConfiguration(
      numExperts: max(count, 1), topK: 1, hiddenSize: widths.0, ffnSize: widths.1, dtype: run.dtype)
    let bytes = run.backend.preparedBytes(configuration, localExperts: count).of(capacity)
    let groups = RowGroups(bounds, prepared: try run.arena(bytes))
    try run.backend.prepare(groups, configuration, rowsCapacity: capacity)
    return groups
  }
}

/// Rows in order, or indexed rows of another tensor.
struct LawRows {
  let rows: ExpertRows
  private let places: [Int]

  /// Makes rows to read.
  init(_ run: BackendRun, placed: Bool, _ tensor: LawTensor) throws {
    guard placed else {
      (rows, places) = (ExpertRows(tensor.view), [])
      return
    }
    let (count, width) = (tensor.view.shape[0], tensor.view.shape[1])
    let places = Array(0..<count + 3).shuffled(using: &run.random).prefix(count)
    var values = [Double](repeating: .nan, count: (count + 3) * width)
    for (row, place) in places.enumerated() {
      values.replaceSubrange(
        place * width..<(place + 1) * width, with: tensor.values[row * width..<(row + 1) * width])
    }
    self.places = Array(places)
    rows = ExpertRows(
      try run.tensor(values, [count + 3, width], tensor.view.dtype).view,
      .indexed(try run.integers(self.places)))
  }

  /// Makes rows to write.
  init(_ run: BackendRun, placed: Bool, _ shape: [Int], _ dtype: DataType) throws {
    guard placed else {
      (rows, places) = (ExpertRows(try run.output(shape, dtype)), [])
      return
    }
    places = Array(0..<shape[0]).shuffled(using: &run.random)
    rows = ExpertRows(try run.output(shape, dtype), .indexed(try run.integers(places)))
  }

  /// Expects the leading rows to match the reference.
  func expect(
    _ run: BackendRun, _ reference: [Double]?, tolerance: Double, _ what: String
  ) throws {
    let ordered = try run.tensor(inOrder(run), rows.tensor.shape, rows.tensor.dtype)
    try run.expect(ordered.view, reference, tolerance: tolerance, what)
  }

  /// The values in row order.
  func inOrder(_ run: BackendRun) throws -> [Double] {
    let values = try run.values(rows.tensor)
    let width = rows.width
    return places.isEmpty ? values : places.flatMap { values[$0 * width..<($0 + 1) * width] }
  }
}
