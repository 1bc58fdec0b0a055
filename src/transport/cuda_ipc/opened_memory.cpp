#include "transport/cuda_ipc/opened_memory.hpp"

#include <map>
#include <mutex>
#include <tuple>
#include <utility>

namespace weightcast::transport {
namespace {

using Key = std::tuple<const driver::Cuda*, int, std::string, std::string>;

/// CUDA opens an allocation once in a process. Holds nothing itself.
struct Registry {
  std::mutex mutex;  ///< also held while one is closed, so that it is not opened meanwhile
  std::map<Key, std::weak_ptr<const OpenedMemory>> opened;
};

// Never destroyed: engines may end after static objects have.
Registry& registry() {
  static Registry* const all = new Registry;
  return *all;
}

}  // namespace

Result<std::shared_ptr<const OpenedMemory>> OpenedMemory::open(std::shared_ptr<driver::Cuda> cuda,
                                                               int device, const std::string& owner,
                                                               const driver::IpcHandle& handle) {
  Registry& all = registry();
  const std::string name(reinterpret_cast<const char*>(handle.bytes.data()), handle.bytes.size());
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.opened, [](const auto& one) { return one.second.expired(); });
  const Key key{cuda.get(), device, owner, name};
  if (const auto known = all.opened.find(key); known != all.opened.end()) {
    if (auto memory = known->second.lock()) return memory;
  }
  auto memory = cuda->open_memory(device, handle);
  if (memory.status().code() == Code::kInvalid) {
    return Status(Code::kInvalid,
                  "the trainer's device memory cannot be opened: " + memory.status().message() +
                      "; where trainer and engine are one process, set the trainer's staging to host");
  }
  if (!memory) return memory.status();
  // Not make_shared: what it is closed by is the registry's lock.
  std::shared_ptr<const OpenedMemory> opened(new OpenedMemory(std::move(cuda), device, *memory));
  all.opened[key] = opened;
  return opened;
}

OpenedMemory::~OpenedMemory() {
  const std::lock_guard lock(registry().mutex);
  cuda_->close_memory(device_, memory_);
}

}  // namespace weightcast::transport
