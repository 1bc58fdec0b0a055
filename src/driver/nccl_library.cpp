#include "driver/nccl_library.hpp"

#include <dlfcn.h>

#include <climits>
#include <utility>

#include "driver/current_device.hpp"

namespace weightcast::driver {
namespace {

// NCCL's C interface as of 2.18, so that its header is not needed to build: newer libraries take
// what an older header describes (they look at the configuration's size and version).
constexpr int kSuccess = 0;
constexpr int kSystemError = 2;
constexpr int kInvalidArgument = 4;
constexpr int kInvalidUsage = 5;
constexpr int kRemoteError = 6;
constexpr int kInProgress = 7;
constexpr int kUint8 = 1;

struct Id {
  char internal[128];
};
static_assert(sizeof(Id) == sizeof(NcclUniqueId));

struct Config {
  std::size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21800;
  int blocking = 0;
  int cga_cluster_size = INT_MIN;  // NCCL's choice, as all of these
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* network = nullptr;
  int split_share = INT_MIN;
};

constexpr int kMemoryCalls = 21900;  // the version that brought memory of its own and registration

struct Functions {
  int (*get_version)(int*) = nullptr;
  const char* (*error_string)(int) = nullptr;
  const char* (*last_error)(void*) = nullptr;
  int (*unique_id)(Id*) = nullptr;
  int (*init_rank)(void**, int, Id, int, Config*) = nullptr;
  int (*async_error)(void*, int*) = nullptr;
  int (*finalize)(void*) = nullptr;
  int (*destroy)(void*) = nullptr;
  int (*abort)(void*) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*broadcast)(const void*, void*, std::size_t, int, int, void*, void*) = nullptr;
  int (*send)(const void*, std::size_t, int, int, void*, void*) = nullptr;
  int (*receive)(void*, std::size_t, int, int, void*, void*) = nullptr;
  int (*mem_alloc)(void**, std::size_t) = nullptr;
  int (*mem_free)(void*) = nullptr;
  int (*register_memory)(void*, void*, std::size_t, void**) = nullptr;
  int (*deregister)(void*, void*) = nullptr;
};

/// Looks functions up until one is missing.
class Symbols {
 public:
  explicit Symbols(void* library) : library_(library) {}
  template <class Function>
  Symbols& find(const char* name, Function& out) {
    out = reinterpret_cast<Function>(::dlsym(library_, name));
    if (out == nullptr && missing_.empty()) missing_ = name;
    return *this;
  }
  const std::string& missing() const noexcept { return missing_; }

 private:
  void* library_;
  std::string missing_;
};

Code code_of(int result) noexcept {
  switch (result) {
    case kSystemError:
    case kRemoteError:
      return Code::kUnavailable;
    case kInvalidArgument:
    case kInvalidUsage:
      return Code::kInvalid;
    default:
      return Code::kInternal;
  }
}

class Library final : public Nccl {
 public:
  Library(const Functions& functions, int version) : call_(functions), version_(version) {}

  int version() const noexcept override { return version_; }

  Result<NcclUniqueId> unique_id() override {
    NcclUniqueId id;
    if (Status s = check("ncclGetUniqueId", call_.unique_id(reinterpret_cast<Id*>(&id)), nullptr);
        !s) {
      return s;
    }
    return id;
  }

  Result<NcclComm> init_rank(int device, const NcclUniqueId& id, int rank, int size,
                             const NcclCommOptions& options) override {
    auto current = CurrentDevice::set(device);
    if (!current) return current.status();
    Config config;
    if (options.min_ctas > 0) config.min_ctas = options.min_ctas;
    if (options.max_ctas > 0) config.max_ctas = options.max_ctas;
    if (!options.network.empty()) config.network = options.network.c_str();
    NcclComm comm = nullptr;
    const int result = call_.init_rank(&comm, size, reinterpret_cast<const Id&>(id), rank, &config);
    if (result != kSuccess && result != kInProgress) {
      Status why = check("ncclCommInitRankConfig", result, nullptr);
      if (comm != nullptr) (void)call_.abort(comm);
      return why;
    }
    return comm;
  }

  Result<NcclProgress> state(NcclComm comm) override {
    int behind = kSuccess;
    const int result = call_.async_error(comm, &behind);
    if (result != kSuccess) return check("ncclCommGetAsyncError", result, comm);
    return progress("NCCL, behind the caller", behind, comm);
  }

  Result<NcclProgress> finalize(NcclComm comm) override {
    return progress("ncclCommFinalize", call_.finalize(comm), comm);
  }
  Status destroy(NcclComm comm) override {
    return check("ncclCommDestroy", call_.destroy(comm), nullptr);
  }
  Status abort(NcclComm comm) override {
    const int result = call_.abort(comm);
    return result == kInProgress ? Status::ok() : check("ncclCommAbort", result, nullptr);
  }

  Status group_start() override { return check("ncclGroupStart", call_.group_start(), nullptr); }
  Result<NcclProgress> group_end() override {
    return progress("ncclGroupEnd", call_.group_end(), nullptr);
  }

  Result<NcclProgress> broadcast(NcclComm comm, const void* from, void* to, std::uint64_t bytes,
                                 int root, Stream stream) override {
    return progress("ncclBroadcast",
                    call_.broadcast(from, to, bytes, kUint8, root, comm, stream), comm);
  }
  Result<NcclProgress> send(NcclComm comm, const void* from, std::uint64_t bytes, int peer,
                            Stream stream) override {
    return progress("ncclSend", call_.send(from, bytes, kUint8, peer, comm, stream), comm);
  }
  Result<NcclProgress> receive(NcclComm comm, void* to, std::uint64_t bytes, int peer,
                               Stream stream) override {
    return progress("ncclRecv", call_.receive(to, bytes, kUint8, peer, comm, stream), comm);
  }

  Result<void*> mem_alloc(int device, std::uint64_t bytes) override {
    if (call_.mem_alloc == nullptr) {
      return Status(Code::kUnavailable, "NCCL has memory of its own from 2.19 on, this is " +
                                            std::to_string(version_));
    }
    auto current = CurrentDevice::set(device);
    if (!current) return current.status();
    void* memory = nullptr;
    if (Status s = check("ncclMemAlloc", call_.mem_alloc(&memory, bytes), nullptr); !s) {
      // It does not tell a lack of memory from other failures of CUDA.
      return Status(Code::kExhausted, s.message() + " (for " + std::to_string(bytes) + " bytes)");
    }
    return memory;
  }
  void mem_free(int device, void* memory) noexcept override {
    if (memory == nullptr || call_.mem_free == nullptr) return;
    if (auto current = CurrentDevice::set(device)) (void)call_.mem_free(memory);
  }
  Result<void*> register_memory(NcclComm comm, void* memory, std::uint64_t bytes) override {
    void* handle = nullptr;
    if (call_.register_memory == nullptr) return handle;
    if (Status s = check("ncclCommRegister", call_.register_memory(comm, memory, bytes, &handle),
                         comm);
        !s) {
      return s;
    }
    return handle;
  }
  Status deregister_memory(NcclComm comm, void* handle) override {
    // Where NCCL had no use for a registration it gives no handle.
    if (call_.deregister == nullptr || handle == nullptr) return Status::ok();
    return check("ncclCommDeregister", call_.deregister(comm, handle), comm);
  }

 private:
  Status check(const char* what, int result, NcclComm comm) const {
    if (result == kSuccess) return Status::ok();
    std::string text = std::string(what) + ": " + call_.error_string(result);
    if (const char* const more = call_.last_error(comm); more != nullptr && *more != '\0') {
      text += std::string(" (") + more + ")";
    }
    return {code_of(result), text + "; NCCL_DEBUG=INFO says more"};
  }
  Result<NcclProgress> progress(const char* what, int result, NcclComm comm) const {
    if (result == kSuccess) return NcclProgress::kOver;
    if (result == kInProgress) return NcclProgress::kUnderWay;
    return check(what, result, comm);
  }

  const Functions call_;
  const int version_;
};

}  // namespace

Result<std::shared_ptr<Nccl>> open_nccl(const std::string& file) {
  // For as long as the process lives: threads of its own run in it.
  void* const library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = ::dlerror();
    return Status(Code::kUnavailable, "cannot load NCCL: " + std::string(why ? why : file) +
                                          "; install it, load it before (import torch), or name " +
                                          "the file in WEIGHTCAST_NCCL_LIBRARY");
  }
  Functions call;
  Symbols symbols(library);
  symbols.find("ncclGetVersion", call.get_version);
  int version = 0;
  if (!symbols.missing().empty() || call.get_version(&version) != kSuccess) {
    return Status(Code::kUnavailable, "'" + file + "' is no NCCL: it does not say its version");
  }
  if (version < kOldestNccl) {
    return Status(Code::kUnavailable, "expected NCCL " + std::to_string(kOldestNccl) +
                                          " or newer, '" + file + "' is " +
                                          std::to_string(version) + "; install a newer one");
  }
  symbols.find("ncclGetErrorString", call.error_string)
      .find("ncclGetLastError", call.last_error)
      .find("ncclGetUniqueId", call.unique_id)
      .find("ncclCommInitRankConfig", call.init_rank)
      .find("ncclCommGetAsyncError", call.async_error)
      .find("ncclCommFinalize", call.finalize)
      .find("ncclCommDestroy", call.destroy)
      .find("ncclCommAbort", call.abort)
      .find("ncclGroupStart", call.group_start)
      .find("ncclGroupEnd", call.group_end)
      .find("ncclBroadcast", call.broadcast)
      .find("ncclSend", call.send)
      .find("ncclRecv", call.receive);
  if (version >= kMemoryCalls) {
    symbols.find("ncclMemAlloc", call.mem_alloc)
        .find("ncclMemFree", call.mem_free)
        .find("ncclCommRegister", call.register_memory)
        .find("ncclCommDeregister", call.deregister);
  }
  if (!symbols.missing().empty()) {
    return Status(Code::kUnavailable, "'" + file + "' says that it is NCCL " +
                                          std::to_string(version) + " but lacks " +
                                          symbols.missing() + "; install NCCL whole");
  }
  return std::shared_ptr<Nccl>(std::make_shared<Library>(call, version));
}

}  // namespace weightcast::driver
