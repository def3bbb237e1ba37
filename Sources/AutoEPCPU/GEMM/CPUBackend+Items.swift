import AutoEPCore

extension CPUBackend {
  /// Shares items of work out over the threads, each at a workbench.
  func forEachItem(of items: [WorkItem], _ body: (WorkItem, Workbench) -> Void) {
    pool.forEachItem(of: items.count) { index in
      workbenches.withWorkbench { body(items[index], $0) }
    }
  }

  /// The items of the gradients of weights `[E, features, width]`.
  func gradientItems(_ groups: RowGroups, _ gradients: TensorView) -> [WorkItem] {
    WorkItem.gradients(
      groups, features: gradients.shape[1], width: gradients.shape[2],
      threadCount: pool.threadCount)
  }
}
