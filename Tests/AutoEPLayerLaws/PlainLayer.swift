import AutoEPCore

extension DispatchCase {
  /// Computes the whole layer as plain loops in f64.
  func plainPass() -> LayerPass.Results {
    let sort = self.sort
    let (k, h) = (configuration.topK, configuration.hiddenSize)
    let isBefore = configuration.applyWeights == .before
    let experts = PlainExperts(configuration: configuration, counts: sort.counts, weights: weights)
    let copies = sort.rows(x, topK: k, width: h)
    let rowWeights = sort.slotOfRow.map { topkWeights[$0] }
    let ones = [Double](repeating: 1, count: rowWeights.count)
    let rows = isBefore ? scaled(copies, by: rowWeights, width: h) : copies
    let hidden = experts.hidden(rows)
    let gradients = experts.gradients(
      sort.rows(gradY, topK: k, width: h), rows: rows, hidden: hidden,
      rowWeights: isBefore ? ones : rowWeights)
    let after = isBefore ? nil : topkWeights
    let before = isBefore ? topkWeights : nil
    let dots = isBefore ? plainDots(copies, gradients.inputs, width: h) : gradients.dots
    return LayerPass.Results(
      y: sort.sums(experts.results(hidden: hidden), topK: k, width: h, weights: after),
      gradX: sort.sums(gradients.inputs, topK: k, width: h, weights: before),
      gradTopkWeights: sort.toSlots(dots), weights: gradients.weights)
  }
}
