import AutoEPSystem
import CCUDA

/// The driver's functions that this library calls.
@safe
struct DriverFunctions: @unchecked Sendable {
  let initialise: cuInit_t
  let driverGetVersion: cuDriverGetVersion_t
  let getErrorName: cuGetErrorName_t
  let getErrorString: cuGetErrorString_t
  let deviceGetCount: cuDeviceGetCount_t
  let deviceGet: cuDeviceGet_t
  let deviceGetAttribute: cuDeviceGetAttribute_t
  let devicePrimaryCtxRetain: cuDevicePrimaryCtxRetain_t
  let ctxSetCurrent: cuCtxSetCurrent_t
  let ctxGetCurrent: cuCtxGetCurrent_t
  let moduleLoadDataEx: cuModuleLoadDataEx_t
  let moduleGetFunction: cuModuleGetFunction_t
  let funcGetAttribute: cuFuncGetAttribute_t
  let funcSetAttribute: cuFuncSetAttribute_t
  #if DEBUG
    /// Nil for drivers older than 12.4.
    let funcGetParamInfo: cuFuncGetParamInfo_t?
  #endif
  let launchKernelEx: cuLaunchKernelEx_t
  let memHostAlloc: cuMemHostAlloc_t
  let memHostGetDevicePointer: cuMemHostGetDevicePointer_v2_t
  let memFreeHost: cuMemFreeHost_t
  let memcpyHtoDAsync: cuMemcpyHtoDAsync_v2_t
  let memcpyDtoHAsync: cuMemcpyDtoHAsync_v2_t
  let memcpyDtoDAsync: cuMemcpyDtoDAsync_v2_t
  let streamCreate: cuStreamCreate_t
  let streamDestroy: cuStreamDestroy_v2_t
  let streamSynchronize: cuStreamSynchronize_t
  let eventCreate: cuEventCreate_t
  let eventRecord: cuEventRecord_t
  let eventQuery: cuEventQuery_t
  let eventDestroy: cuEventDestroy_v2_t
  let tensorMapEncodeTiled: cuTensorMapEncodeTiled_t
  let deviceGetUUID: cuDeviceGetUuid_v2_t
  let deviceCanAccessPeer: cuDeviceCanAccessPeer_t
  let streamWaitEvent: cuStreamWaitEvent_t
  let memGetAllocationGranularity: cuMemGetAllocationGranularity_t
  let memCreate: cuMemCreate_t
  let memRelease: cuMemRelease_t
  let memExportToShareableHandle: cuMemExportToShareableHandle_t
  let memImportFromShareableHandle: cuMemImportFromShareableHandle_t
  let memAddressReserve: cuMemAddressReserve_t
  let memAddressFree: cuMemAddressFree_t
  let memMap: cuMemMap_t
  let memUnmap: cuMemUnmap_t
  let memSetAccess: cuMemSetAccess_t

  init(_ library: DynamicLibrary) throws(LoaderError) {
    unsafe initialise = try library.function("cuInit")
    unsafe driverGetVersion = try library.function("cuDriverGetVersion")
    unsafe getErrorName = try library.function("cuGetErrorName")
    unsafe getErrorString = try library.function("cuGetErrorString")
    unsafe deviceGetCount = try library.function("cuDeviceGetCount")
    unsafe deviceGet = try library.function("cuDeviceGet")
    unsafe deviceGetAttribute = try library.function("cuDeviceGetAttribute")
    unsafe devicePrimaryCtxRetain = try library.function("cuDevicePrimaryCtxRetain")
    unsafe ctxSetCurrent = try library.function("cuCtxSetCurrent")
    unsafe ctxGetCurrent = try library.function("cuCtxGetCurrent")
    unsafe moduleLoadDataEx = try library.function("cuModuleLoadDataEx")
    unsafe moduleGetFunction = try library.function("cuModuleGetFunction")
    unsafe funcGetAttribute = try library.function("cuFuncGetAttribute")
    unsafe funcSetAttribute = try library.function("cuFuncSetAttribute")
    #if DEBUG
      unsafe funcGetParamInfo = try? library.function("cuFuncGetParamInfo")
    #endif
    unsafe launchKernelEx = try library.function("cuLaunchKernelEx")
    unsafe memHostAlloc = try library.function("cuMemHostAlloc")
    unsafe memHostGetDevicePointer = try library.function("cuMemHostGetDevicePointer_v2")
    unsafe memFreeHost = try library.function("cuMemFreeHost")
    unsafe memcpyHtoDAsync = try library.function("cuMemcpyHtoDAsync_v2")
    unsafe memcpyDtoHAsync = try library.function("cuMemcpyDtoHAsync_v2")
    unsafe memcpyDtoDAsync = try library.function("cuMemcpyDtoDAsync_v2")
    unsafe streamCreate = try library.function("cuStreamCreate")
    unsafe streamDestroy = try library.function("cuStreamDestroy_v2")
    unsafe streamSynchronize = try library.function("cuStreamSynchronize")
    unsafe eventCreate = try library.function("cuEventCreate")
    unsafe eventRecord = try library.function("cuEventRecord")
    unsafe eventQuery = try library.function("cuEventQuery")
    unsafe eventDestroy = try library.function("cuEventDestroy_v2")
    unsafe tensorMapEncodeTiled = try library.function("cuTensorMapEncodeTiled")
    unsafe deviceGetUUID = try library.function("cuDeviceGetUuid_v2")
    unsafe deviceCanAccessPeer = try library.function("cuDeviceCanAccessPeer")
    unsafe streamWaitEvent = try library.function("cuStreamWaitEvent")
    unsafe memGetAllocationGranularity = try library.function("cuMemGetAllocationGranularity")
    unsafe memCreate = try library.function("cuMemCreate")
    unsafe memRelease = try library.function("cuMemRelease")
    unsafe memExportToShareableHandle = try library.function("cuMemExportToShareableHandle")
    unsafe memImportFromShareableHandle = try library.function("cuMemImportFromShareableHandle")
    unsafe memAddressReserve = try library.function("cuMemAddressReserve")
    unsafe memAddressFree = try library.function("cuMemAddressFree")
    unsafe memMap = try library.function("cuMemMap")
    unsafe memUnmap = try library.function("cuMemUnmap")
    unsafe memSetAccess = try library.function("cuMemSetAccess")
  }
}
