#include "driver/nccl.hpp"

#include <mutex>
#include <optional>
#include <utility>

#include "base/config.hpp"
#include "driver/nccl_library.hpp"

namespace weightcast::driver {
namespace {

struct LoadedNccl {
  std::mutex mutex;
  std::optional<Result<std::shared_ptr<Nccl>>> machine;  ///< asked once, a failure too
  std::shared_ptr<Nccl> other;
};

// Never destroyed, as what load_cuda() keeps.
LoadedNccl& loaded_nccl() {
  static LoadedNccl* const all = new LoadedNccl;
  return *all;
}

}  // namespace

Result<std::shared_ptr<Nccl>> load_nccl() {
  LoadedNccl& all = loaded_nccl();
  const std::lock_guard lock(all.mutex);
  if (all.other != nullptr) return all.other;
  if (!all.machine) {
    all.machine = open_nccl(base::environment("WEIGHTCAST_NCCL_LIBRARY").value_or("libnccl.so.2"));
  }
  return *all.machine;
}

void set_nccl(std::shared_ptr<Nccl> nccl) {
  LoadedNccl& all = loaded_nccl();
  const std::lock_guard lock(all.mutex);
  std::swap(all.other, nccl);
}

}  // namespace weightcast::driver
