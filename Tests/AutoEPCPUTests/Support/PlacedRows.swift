import AutoEPCore

/// Rows in some placement, with copies in order.
struct PlacedRows {
  /// The kinds of placement.
  enum Kind: CaseIterable, Sendable {
    case inOrder
    case indexed
    case tokens
  }

  let rows: ExpertRows
  let copies: Tensor
  /// The position of each row in the memory of `rows`.
  let places: [Int]
  /// The memory of `rows`.
  let memory: Tensor

  /// Makes random rows. All other memory of `rows` is NaN.
  init(_ kind: Kind, _ count: Int, width: Int, _ dtype: DataType, _ random: inout Random) {
    let topK = 3
    let numTokens = (count + topK - 1) / topK + 1
    let capacity = kind == .tokens ? numTokens : kind == .indexed ? count + 2 : count
    let slots = Array(0..<numTokens * topK).shuffled(using: &random)
    places =
      switch kind {
      case .inOrder: Array(0..<count)
      case .indexed: Array(Array(0..<capacity).shuffled(using: &random).prefix(count))
      case .tokens: slots.prefix(count).map { $0 / topK }
      }
    var values = [Double](repeating: .nan, count: capacity * width)
    for place in Set(places).sorted() {
      values.replaceSubrange(place * width..<(place + 1) * width, with: random.values(width))
    }
    memory = Tensor(values, [capacity, width], dtype)
    copies = Tensor(
      places.flatMap { values[$0 * width..<($0 + 1) * width] }, [count, width], dtype)
    switch kind {
    case .inOrder: rows = ExpertRows(memory.view)
    case .indexed:
      rows = ExpertRows(memory.view, .indexed(Tensor(integers: places, [count]).view))
    case .tokens:
      // Slots of rows that are not in use are undefined.
      let slotOfRow = slots.prefix(count) + Array(repeating: -77, count: slots.count - count)
      var rowOfSlot = [Int](repeating: -1, count: slots.count)
      for (row, slot) in slots.prefix(count).enumerated() { rowOfSlot[slot] = row }
      rows = ExpertRows(
        memory.view,
        .tokens(
          SlotMap(
            rowOfSlot: Tensor(integers: rowOfSlot, [numTokens, topK]).view,
            slotOfRow: Tensor(integers: Array(slotOfRow), [slots.count]).view)))
    }
  }

  /// The current bytes of the rows, in order.
  var bytesInOrder: [UInt8] {
    let rowBytes = memory.view.rowElementCount * memory.view.dtype.byteCount
    let bytes = memory.bytes
    return places.flatMap { bytes[$0 * rowBytes..<($0 + 1) * rowBytes] }
  }

  /// The current values of the rows, in order.
  var valuesInOrder: [Double] {
    let width = memory.view.rowElementCount
    let values = memory.values
    return places.flatMap { values[$0 * width..<($0 + 1) * width] }
  }
}

extension PlacedRows {
  /// Makes rows of NaN to be written.
  static func output(
    _ kind: Kind, _ count: Int, width: Int, _ dtype: DataType, _ random: inout Random
  ) -> PlacedRows {
    let placed = PlacedRows(kind, count, width: width, dtype, &random)
    placed.memory.values = Array(repeating: .nan, count: placed.memory.view.elementCount)
    return placed
  }

  /// Whether all memory outside the rows is still NaN.
  var leftTheRestAlone: Bool {
    let (width, values) = (memory.view.rowElementCount, memory.values)
    let written = Set(places)
    return (0..<memory.view.shape[0]).allSatisfy { row in
      written.contains(row) || values[row * width..<(row + 1) * width].allSatisfy(\.isNaN)
    }
  }
}
