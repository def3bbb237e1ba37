import AutoEPCore

/// The weights of all groups, one matrix per group.
struct WeightMatrices<S: Scalar> {
  let outputs: Int
  let inputs: Int
  private let elements: Elements<S>
  private let layout: WeightLayout

  /// [E, out, in], or [E, in, out].
  init(_ tensor: TensorView, layout: WeightLayout) {
    elements = Elements(tensor)
    let (first, second) = (tensor.shape[1], tensor.shape[2])
    (outputs, inputs) = layout == .outIn ? (first, second) : (second, first)
    self.layout = layout
  }

  private init(_ elements: Elements<S>, outputs: Int, inputs: Int, layout: WeightLayout) {
    self.elements = elements
    self.outputs = outputs
    self.inputs = inputs
    self.layout = layout
  }

  /// The weight of a group.
  subscript(group: Int) -> WeightView<S> {
    WeightView(
      elements.row(group, width: outputs * inputs), outputs: outputs, inputs: inputs,
      layout: layout)
  }

  /// Whether the inputs of one output are contiguous; otherwise the outputs of one input are.
  var inputsRunAlongMemory: Bool { layout == .outIn }

  /// Returns the matrices of the same memory with inputs and outputs exchanged.
  var transposed: WeightMatrices {
    WeightMatrices(elements, outputs: inputs, inputs: outputs, layout: layout.transposed)
  }
}

/// One group's weight, or a range of its outputs; inputs or outputs are contiguous.
struct WeightView<S: Scalar> {
  let outputs: Int
  let inputs: Int
  private let elements: Elements<S>
  private let outputStride: Int
  private let inputStride: Int

  init(_ elements: Elements<S>, outputs: Int, inputs: Int, layout: WeightLayout) {
    self.init(
      elements, outputs: outputs, inputs: inputs, outputStride: layout == .outIn ? inputs : 1,
      inputStride: layout == .outIn ? 1 : outputs)
  }

  private init(
    _ elements: Elements<S>, outputs: Int, inputs: Int, outputStride: Int, inputStride: Int
  ) {
    self.elements = elements
    self.outputs = outputs
    self.inputs = inputs
    self.outputStride = outputStride
    self.inputStride = inputStride
  }

  /// A range of the outputs.
  subscript(range: Range<Int>) -> WeightView {
    let first = min(range.lowerBound * outputStride, elements.count)
    return WeightView(
      elements[first..<elements.count], outputs: range.count, inputs: inputs,
      outputStride: outputStride, inputStride: inputStride)
  }

  /// Whether the inputs of one output are contiguous; otherwise the outputs of one input are.
  var inputsRunAlongMemory: Bool { inputStride == 1 }

  /// The address of an output's inputs.
  func address(ofOutput output: Int) -> UnsafeRawPointer? {
    unsafe UnsafeRawPointer(elements.pointer.map { unsafe $0 + output * outputStride })
  }

  /// The address of an input's outputs.
  func address(ofInput input: Int) -> UnsafeRawPointer? {
    unsafe UnsafeRawPointer(elements.pointer.map { unsafe $0 + input * inputStride })
  }
}
