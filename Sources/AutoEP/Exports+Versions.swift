// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_version") @implementation
public func autoep_version() -> UnsafePointer<CChar>! { unsafe staticText("0.1.0") }

@_cdecl("autoep_abi_version") @implementation
public func autoep_abi_version() -> Int32 { Int32(AUTOEP_ABI_VERSION) }

@_cdecl("autoep_status_name") @implementation
public func autoep_status_name(_ status: autoep_status) -> UnsafePointer<CChar>! {
  if status == AUTOEP_OK { return unsafe staticText("AUTOEP_OK") }
  return switch EngineError.Kind(rawValue: status) {
  case .invalidArgument: unsafe staticText("AUTOEP_ERROR_INVALID_ARGUMENT")
  case .invalidHandle: unsafe staticText("AUTOEP_ERROR_INVALID_HANDLE")
  case .unsupported: unsafe staticText("AUTOEP_ERROR_UNSUPPORTED")
  case .outOfMemory: unsafe staticText("AUTOEP_ERROR_OUT_OF_MEMORY")
  case .communication: unsafe staticText("AUTOEP_ERROR_COMMUNICATION")
  case .timeout: unsafe staticText("AUTOEP_ERROR_TIMEOUT")
  case .missingLibrary: unsafe staticText("AUTOEP_ERROR_MISSING_LIBRARY")
  case .internal: unsafe staticText("AUTOEP_ERROR_INTERNAL")
  case nil: unsafe staticText("unknown status")
  }
}

/// The bytes of a literal, which end with NUL and stay valid for the life of the process.
private func staticText(_ text: StaticString) -> UnsafePointer<CChar> {
  unsafe UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
}
