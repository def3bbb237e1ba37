/// The part of a grouped product that one thread computes.
struct WorkItem {
  let group: Int
  /// Row numbers over all groups.
  let rows: Range<Int>
  /// Columns of the result, or rows of a weight gradient.
  let features: Range<Int>

  /// Rows times features. Clearing the gradient of a group without rows takes as long as one row; `0..<0` stands
  /// for all features.
  var area: Double { Double(max(rows.count, 1)) * Double(max(features.count, 1)) }

  /// The most rows per item: enough that reading the weights is cheap beside the products.
  private static var mostRows: Int { 288 }
  /// The most rows whose sums for a strip of columns stay in the cache.
  private static var mostPackedRows: Int { 768 }
  /// The fewest features per item of a gradient: enough that packing the rows is cheap.
  private static var leastFeatures: Int { 256 }
  /// The fewest items per thread, if there is enough work: more items balance unequal groups.
  private static var itemsPerThread: Int { 4 }

  /// The items of products of rows, each with all features; the largest first.
  static func products(
    _ groups: GroupRanges, features: Int, rowUnit: Int, threadCount: Int
  ) -> [WorkItem] {
    let rowCount = groups.rowCount
    let share = (rowCount / (threadCount * itemsPerThread)).roundedUp(to: rowUnit)
    let most = threadCount == 1 ? mostRows : max(min(share, mostRows), rowUnit)
    return groups.ranges.enumerated().flatMap { group, rows in
      rows.parts(most: most, unit: rowUnit).map {
        WorkItem(group: group, rows: $0, features: 0..<features)
      }
    }.sorted { $0.rows.count > $1.rows.count }
  }

  /// The items of products whose weights must be packed: all rows of an item share the packing, and items that
  /// pack different columns are split between threads. The largest first.
  static func packedProducts(
    _ groups: GroupRanges, features: Int, featureUnit: Int, threadCount: Int
  ) -> [WorkItem] {
    let work = groups.rowCount * features
    let share = work / (threadCount * itemsPerThread)
    return groups.ranges.enumerated().flatMap { group, rows in
      rows.parts(most: mostPackedRows, unit: 1).flatMap { rows in
        (0..<features).parts(
          most: threadCount == 1 ? features : share / rows.count, unit: featureUnit
        ).map { WorkItem(group: group, rows: rows, features: $0) }
      }
    }.sorted { $0.rows.count * $0.features.count > $1.rows.count * $1.features.count }
  }

  /// The items of gradients of weights [features, width], each with all rows of its group; the largest first.
  static func gradients(
    _ groups: GroupRanges, features: Int, width: Int, threadCount: Int
  ) -> [WorkItem] {
    guard width > 0 else { return [] }
    let work = groups.rowCount * features
    let share = max(work / (threadCount * itemsPerThread), 1)
    return groups.ranges.enumerated().flatMap { group, rows in
      let most = threadCount == 1 ? features : max(share / max(rows.count, 1), leastFeatures)
      return (0..<features).parts(most: most, unit: leastFeatures).map {
        WorkItem(group: group, rows: rows, features: $0)
      }
    }.sorted { $0.rows.count * $0.features.count > $1.rows.count * $1.features.count }
  }

  /// Also splits the items by features if there are too few for the threads.
  static func split(_ items: [WorkItem], threadCount: Int) -> [WorkItem] {
    let parts = threadCount * itemsPerThread / max(items.count, 1)
    guard threadCount > 1, parts > 1 else { return items }
    return items.flatMap { item in
      let most = max(item.features.count / parts, leastFeatures)
      return item.features.parts(most: most, unit: leastFeatures).map {
        WorkItem(group: item.group, rows: item.rows, features: $0)
      }
    }
  }
}
