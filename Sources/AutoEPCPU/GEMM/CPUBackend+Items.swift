import AutoEPCore
import CMicroKernels

extension CPUBackend {
  /// Runs `body` for each work item, distributed over the threads; each thread has a workbench.
  ///
  /// - Parameter depth: The multiply-adds per row and feature of an item.
  func forEachItem(
    of items: [WorkItem], depth: Int, _ body: @Sendable (WorkItem, Workbench) -> Void
  ) {
    let multiplyAdds = items.reduce(0) { $0 + $1.area } * Double(depth)
    pool.forEachItem(of: items.count, multiplyAdds: multiplyAdds) { index in
      workbenches.withWorkbench { body(items[index], $0) }
      end_streams()
    }
  }

  /// The work items of rows times weights.
  func productItems<S: RowScalar>(
    _ groups: GroupRanges, _ weights: WeightMatrices<S>
  ) -> [WorkItem] {
    let kernel = S.kernel(of: kernels)
    guard weights.inputsRunAlongMemory else {
      return WorkItem.packedProducts(
        groups, features: weights.outputs,
        featureUnit: 2 * kernel.columns, threadCount: pool.threadCount)
    }
    let items = WorkItem.products(
      groups, features: weights.outputs, rowUnit: kernel.lanes, threadCount: pool.threadCount)
    return WorkItem.split(items, threadCount: pool.threadCount)
  }

  /// The work items of a gradient of weights `[E, features, width]`.
  func gradientItems<S: RowScalar>(
    _ groups: GroupRanges, _ gradient: WeightGradient<S>
  ) -> [WorkItem] {
    WorkItem.gradients(
      groups, features: gradient.features, width: gradient.width, threadCount: pool.threadCount)
  }
}
