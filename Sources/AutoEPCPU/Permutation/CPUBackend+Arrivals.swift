import AutoEPCore
import AutoEPSystem

/// Rows that came from other ranks, and the counts that tell of them.
extension CPUBackend {
  /// places[r] = where the r-th row in expert order stands among those that arrive.
  public func arrivalPlaces(received: TensorView, into places: TensorView) {
    let (ranks, experts) = (received.shape[0], received.shape[1])
    let (counts, places) = (Elements<Int32>(received), Elements<Int32>(places))
    var nextOfSource: [Int] = []
    var arrived = 0
    for rank in 0..<ranks {
      nextOfSource.append(arrived)
      arrived += (0..<experts).reduce(0) { $0 + Int(counts[rank * experts + $1]) }
    }
    var row = 0
    for expert in 0..<experts {
      for rank in 0..<ranks {
        let count = Int(counts[rank * experts + expert])
        for offset in 0..<count { places[row + offset] = Int32(nextOfSource[rank] + offset) }
        nextOfSource[rank] += count
        row += count
      }
    }
  }

  /// The numbers of an i32 tensor.
  public func numbers(of tensor: TensorView) -> [Int32] {
    let elements = Elements<Int32>(tensor)
    return (0..<elements.count).map { elements[$0] }
  }

  /// Sets the numbers of an i32 tensor.
  public func store(_ numbers: [Int32], in tensor: TensorView) {
    let elements = Elements<Int32>(tensor)
    for (index, number) in numbers.enumerated() { elements[index] = number }
  }
}
