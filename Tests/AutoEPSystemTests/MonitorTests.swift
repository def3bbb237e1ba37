import AutoEPSystem
import Foundation
import Testing

@Suite struct MonitorTests {
  @Test("a waiting thread sees the change")
  func change() {
    let monitor = Monitor(0)
    Thread.detachNewThread {
      for _ in 0..<3 { monitor.change { $0 += 1 } }
    }
    let seen = monitor.wait { $0 == 3 ? $0 : nil }
    #expect(seen == 3)
  }

  @Test("each condition has its own waiters")
  func conditions() {
    let monitor = Monitor([false, false], conditions: 2)
    Thread.detachNewThread {
      monitor.wait(on: 1) { $0[1] ? () : nil }
      monitor.change(waking: 0) { $0[0] = true }
    }
    monitor.withLock { $0[1] = true }
    monitor.wake(1)
    #expect(monitor.wait(on: 0) { $0[0] ? true : nil })
  }

  @Test("after the deadline, the body's `late` is true")
  func deadline() {
    let clock = ContinuousClock()
    let start = clock.now
    let monitor = Monitor(0)
    let calls = monitor.wait(seconds: 0.05) { calls, late in
      calls += 1
      return late ? calls : nil
    }
    #expect(calls >= 2)
    #expect(clock.now - start >= .milliseconds(50))
  }
}
