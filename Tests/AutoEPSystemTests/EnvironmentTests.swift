import AutoEPSystem
import Testing

@Suite struct EnvironmentTests {
  @Test("an unset variable is nil")
  func values() {
    #expect(environmentValue("PATH") != nil)
    #expect(environmentValue("AUTOEP_NO_SUCH_VARIABLE") == nil)
  }
}
