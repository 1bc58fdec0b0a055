// The call table over the CUDA runtime, which is linked statically: a binary with it starts on a
// machine without a driver, and load_cuda() says so there.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "driver/copy_pieces.hpp"
#include "driver/cuda_contexts.hpp"
#include "driver/cuda_digests.hpp"
#include "driver/cuda_error.hpp"
#include "driver/cuda_machine.hpp"
#include "driver/gather_batch.hpp"
#include "driver/kernels.hpp"

namespace weightcast::driver {
namespace {

// What one cudaHostRegister may take.
constexpr std::uint64_t kRegisterAtOnce = std::uint64_t{64} << 30;

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(IpcHandle::bytes));

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t native_event(Event event) { return static_cast<cudaEvent_t>(event); }

Element element_of(DType type, bool is_cast) {
  if (is_cast) {
    switch (type) {
      case DType::kF64: return Element::kF64;
      case DType::kF32: return Element::kF32;
      case DType::kF16: return Element::kF16;
      default: return Element::kBF16;
    }
  }
  switch (dtype_size(type)) {
    case 1: return Element::kRaw1;
    case 2: return Element::kRaw2;
    case 4: return Element::kRaw4;
    default: return Element::kRaw8;
  }
}

// "GPU-" and the uuid as nvidia-smi writes it.
std::string identity_of(const cudaUUID_t& uuid) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    text += kHex[byte / 16];
    text += kHex[byte % 16];
  }
  return text;
}

class RuntimeCuda : public Cuda {
 public:
  Status load(int devices) {
    devices_ = devices;
    return contexts_.load(devices);
  }

  Result<int> device_count() override { return devices_; }

  Result<DeviceProperties> properties(int device) override {
    cudaDeviceProp all{};
    Status s = cuda_status("cudaGetDeviceProperties", cudaGetDeviceProperties(&all, device));
    if (!s) return s;
    int reads = 0;
    s = cuda_status("cudaDeviceGetAttribute",
                    cudaDeviceGetAttribute(&reads, cudaDevAttrHostRegisterReadOnlySupported,
                                           device));
    if (!s) return s;
    return DeviceProperties{all.name, identity_of(all.uuid), all.multiProcessorCount, reads != 0};
  }

  Result<DeviceMemory> memory(int device) override {
    std::size_t free = 0, total = 0;
    Status s = run(device, "cudaMemGetInfo", [&] { return cudaMemGetInfo(&free, &total); });
    if (!s) return s;
    return DeviceMemory{free, total};
  }

  Result<int> device_of(const void* address) override {
    // Without a context of this process on any device there is no device memory in it.
    const int used = address == nullptr ? -1 : contexts_.used_device();
    if (used < 0) return -1;
    cudaPointerAttributes attributes{};
    if (Status s = run(used, "cudaPointerGetAttributes",
                       [&] { return cudaPointerGetAttributes(&attributes, address); });
        !s) {
      if (s.code() == Code::kInvalid) return -1;
      return s;
    }
    const bool is_there = attributes.type == cudaMemoryTypeDevice ||
                          attributes.type == cudaMemoryTypeManaged;
    return is_there ? attributes.device : -1;
  }

  Result<void*> allocate(int device, std::uint64_t bytes) override {
    if (bytes == 0) return Status(Code::kInvalid, "expected at least one byte of device memory");
    const std::string call =
        "cudaMalloc of " + std::to_string(bytes) + " bytes on device " + std::to_string(device);
    void* memory = nullptr;
    Status s = run(device, call.c_str(), [&] { return cudaMalloc(&memory, bytes); });
    if (!s) return s;
    return memory;
  }

  void free(int device, void* memory) noexcept override {
    if (memory == nullptr) return;
    const OnDevice on(contexts_, device);
    if (!on.status()) return;
    forget_exports(memory);
    drop(cudaFree(memory));
  }

  Result<void*> allocate_host(std::uint64_t bytes) override {
    if (bytes == 0) return Status(Code::kInvalid, "expected at least one byte of pinned memory");
    void* memory = nullptr;
    Status s = run(host_device(), "cudaHostAlloc",
                   [&] { return cudaHostAlloc(&memory, bytes, cudaHostAllocPortable); });
    if (!s) return s;
    return memory;
  }

  void free_host(void* memory) noexcept override {
    if (memory == nullptr) return;
    const OnDevice on(contexts_, host_device());
    if (on.status()) drop(cudaFreeHost(memory));
  }

  Status register_host(void* memory, std::uint64_t bytes) override {
    const OnDevice on(contexts_, host_device());
    if (!on.status()) return on.status();
    auto* begin = static_cast<std::byte*>(memory);
    for (std::uint64_t at = 0; at < bytes; at += kRegisterAtOnce) {
      if (Status s = register_piece(begin + at, std::min(kRegisterAtOnce, bytes - at)); !s) {
        for (std::uint64_t back = 0; back < at; back += kRegisterAtOnce) {
          drop(cudaHostUnregister(begin + back));
        }
        return s;
      }
    }
    const std::lock_guard lock(mutex_);
    for (std::uint64_t at = kRegisterAtOnce; at < bytes; at += kRegisterAtOnce) {
      borders_.push_back(reinterpret_cast<std::uintptr_t>(begin + at));
    }
    std::sort(borders_.begin(), borders_.end());
    return {};
  }

  void unregister_host(void* memory, std::uint64_t bytes) noexcept override {
    const OnDevice on(contexts_, host_device());
    if (!on.status()) return;
    auto* begin = static_cast<std::byte*>(memory);
    for (std::uint64_t at = 0; at < bytes; at += kRegisterAtOnce) {
      drop(cudaHostUnregister(begin + at));
    }
    const std::lock_guard lock(mutex_);
    std::erase_if(borders_, [&](std::uintptr_t border) {
      const auto first = reinterpret_cast<std::uintptr_t>(begin);
      return border > first && border < first + bytes;
    });
  }

  Result<Stream> create_stream(int device, bool urgent) override {
    cudaStream_t stream = nullptr;
    Status s = run(device, "cudaStreamCreateWithPriority", [&] {
      int least = 0, greatest = 0;
      const cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
      if (error != cudaSuccess) return error;
      return cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                          urgent ? greatest : least);
    });
    if (!s) return s;
    return static_cast<Stream>(stream);
  }

  void destroy_stream(int device, Stream stream) noexcept override {
    const OnDevice on(contexts_, device);
    if (on.status() && stream != nullptr) drop(cudaStreamDestroy(native(stream)));
  }

  Result<Event> create_event(int device, bool timed) override {
    cudaEvent_t event = nullptr;
    const unsigned flags = timed ? cudaEventDefault : cudaEventDisableTiming;
    Status s = run(device, "cudaEventCreateWithFlags",
                   [&] { return cudaEventCreateWithFlags(&event, flags); });
    if (!s) return s;
    return static_cast<Event>(event);
  }

  void destroy_event(int device, Event event) noexcept override {
    const OnDevice on(contexts_, device);
    if (on.status() && event != nullptr) drop(cudaEventDestroy(native_event(event)));
  }

  Status record(int device, Event event, Stream stream) override {
    return run(device, "cudaEventRecord",
               [&] { return cudaEventRecord(native_event(event), native(stream)); });
  }

  Result<bool> done(int device, Event event) override {
    const OnDevice on(contexts_, device);
    if (!on.status()) return on.status();
    const cudaError_t error = cudaEventQuery(native_event(event));
    if (error == cudaSuccess) return true;
    if (error != cudaErrorNotReady) return cuda_status("cudaEventQuery", error);
    static_cast<void>(cudaGetLastError());
    return false;
  }

  Status wait(int device, Stream stream, Event event) override {
    return run(device, "cudaStreamWaitEvent",
               [&] { return cudaStreamWaitEvent(native(stream), native_event(event), 0); });
  }

  Status synchronize(int device) override {
    return run(device, "cudaDeviceSynchronize", [] { return cudaDeviceSynchronize(); });
  }

  Result<std::chrono::nanoseconds> elapsed(int device, Event from, Event to) override {
    float milliseconds = 0;
    Status s = run(device, "cudaEventElapsedTime", [&] {
      return cudaEventElapsedTime(&milliseconds, native_event(from), native_event(to));
    });
    if (!s) return s;
    return std::chrono::nanoseconds(
        static_cast<std::int64_t>(static_cast<double>(milliseconds) * 1e6));
  }

  Status copy(int device, std::span<const CopyItem> items, Stream stream) override {
    const OnDevice on(contexts_, device);
    if (!on.status()) return on.status();
    const auto queue = [&](const CopyItem& item) {
      return cuda_status("cudaMemcpyAsync", cudaMemcpyAsync(item.to, item.from, item.bytes,
                                                            cudaMemcpyDefault, native(stream)));
    };
    Borders borders;
    {
      const std::lock_guard lock(mutex_);
      borders = borders_;  // none but where more than 64 GiB were registered at once
    }
    for (const CopyItem& item : items) {
      if (Status s = in_pieces(item, borders, queue); !s) return s;
    }
    return {};
  }

  Status gather(int device, std::span<const GatherItem> items, Stream stream) override {
    const OnDevice on(contexts_, device);
    if (!on.status()) return on.status();
    return gather_in_batches(items, [&](const GatherBatch& batch, DType to, DType from) {
      const bool is_cast = to != from;
      return cuda_status("the gather kernel",
                         static_cast<cudaError_t>(launch_gather(batch, element_of(to, is_cast),
                                                                element_of(from, is_cast),
                                                                stream)));
    });
  }

  Result<std::unique_ptr<DigestJob>> make_digests(int device, std::size_t max_parts,
                                                  std::size_t max_sums) override {
    int multiprocessors = 0;
    Status s = cuda_status("cudaDeviceGetAttribute",
                           cudaDeviceGetAttribute(&multiprocessors,
                                                  cudaDevAttrMultiProcessorCount, device));
    if (!s) return s;
    return make_cuda_digests(contexts_, device, multiprocessors, max_parts, max_sums);
  }

  Result<IpcHandle> export_memory(int device, void* memory) override {
    cudaIpcMemHandle_t native_handle{};
    Status s = run(device, "cudaIpcGetMemHandle",
                   [&] { return cudaIpcGetMemHandle(&native_handle, memory); });
    if (!s) return s;
    IpcHandle handle;
    std::memcpy(handle.bytes.data(), &native_handle, sizeof native_handle);
    const std::lock_guard lock(mutex_);
    exports_[handle.bytes] = memory;
    return handle;
  }

  Result<void*> open_memory(int device, const IpcHandle& handle) override {
    {
      const std::lock_guard lock(mutex_);
      if (exports_.contains(handle.bytes)) {
        return Status(Code::kInvalid,
                      "the handle is of this process's own memory, which needs no opening");
      }
    }
    const OnDevice on(contexts_, device);
    if (!on.status()) return on.status();
    cudaIpcMemHandle_t native_handle{};
    std::memcpy(&native_handle, handle.bytes.data(), sizeof native_handle);
    void* memory = nullptr;
    const cudaError_t error =
        cudaIpcOpenMemHandle(&memory, native_handle, cudaIpcMemLazyEnablePeerAccess);
    if (error == cudaSuccess) return memory;
    Status status = cuda_status("cudaIpcOpenMemHandle", error);
    switch (error) {
      case cudaErrorMapBufferObjectFailed:
      case cudaErrorInvalidResourceHandle:
      case cudaErrorInvalidValue:
        return Status(Code::kNotFound, status.message() +
                                           "; the process that exported it is gone or freed it, "
                                           "or this one may not share memory with it");
      default:
        return status;
    }
  }

  void close_memory(int device, void* memory) noexcept override {
    if (memory == nullptr) return;
    const OnDevice on(contexts_, device);
    if (on.status()) drop(cudaIpcCloseMemHandle(memory));
  }

 private:
  template <class Call>
  Status run(int device, const char* name, Call call) {
    const OnDevice on(contexts_, device);
    return on.status() ? cuda_status(name, call()) : on.status();
  }

  // A failed clean-up has no cure; it must not become somebody else's last error.
  static void drop(cudaError_t error) noexcept {
    if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
  }

  /// Pinned memory is good on all devices; it is made in a context that is there anyway.
  int host_device() { return std::max(contexts_.used_device(), 0); }

  static Status register_piece(std::byte* begin, std::uint64_t bytes) {
    const unsigned flags = cudaHostRegisterPortable;
    const cudaError_t error = cudaHostRegister(begin, bytes, flags);
    if (error == cudaSuccess) return {};
    Status status = cuda_status("cudaHostRegister", error);
    if (error == cudaErrorHostMemoryAlreadyRegistered || error == cudaErrorMemoryAllocation) {
      return status;
    }
    // A mapping for reading alone is refused at first; not every machine takes it at all.
    if (cudaHostRegister(begin, bytes, flags | cudaHostRegisterReadOnly) == cudaSuccess) return {};
    static_cast<void>(cudaGetLastError());
    return status;
  }

  void forget_exports(const void* memory) {
    const std::lock_guard lock(mutex_);
    std::erase_if(exports_, [&](const auto& it) { return it.second == memory; });
  }

  int devices_ = 0;
  Contexts contexts_;
  std::mutex mutex_;
  Borders borders_;
  std::map<std::array<std::byte, 64>, const void*> exports_;
};

}  // namespace

Result<std::shared_ptr<Cuda>> make_machine_cuda() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    static_cast<void>(cudaGetLastError());
    return Status(Code::kUnavailable,
                  "no NVIDIA driver on this machine (libcuda.so.1), so tensors must be in host "
                  "memory; in a container, start it with access to the GPUs");
  }
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    const Status status = cuda_status("cudaGetDeviceCount", error);
    std::string what = status.message();
    if (error == cudaErrorInsufficientDriver) {
      what += "; the NVIDIA driver is made for CUDA " + std::to_string(driver / 1000) + "." +
              std::to_string(driver % 1000 / 10) + ", this weightcast for " +
              std::to_string(CUDART_VERSION / 1000) + "." +
              std::to_string(CUDART_VERSION % 1000 / 10) + ": update the driver";
    } else if (error == cudaErrorNoDevice) {
      what += "; no NVIDIA device is visible, see CUDA_VISIBLE_DEVICES";
    }
    return Status(Code::kUnavailable, std::move(what));
  }
  if (devices == 0) {
    return Status(Code::kUnavailable, "no NVIDIA device is visible, see CUDA_VISIBLE_DEVICES");
  }
  auto cuda = std::make_shared<RuntimeCuda>();
  if (Status s = cuda->load(devices); !s) return s;
  return std::shared_ptr<Cuda>(std::move(cuda));
}

}  // namespace weightcast::driver
