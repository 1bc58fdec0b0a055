#include "driver/cuda.hpp"

#include <mutex>
#include <optional>
#include <utility>

#include "driver/cuda_machine.hpp"

namespace weightcast::driver {
namespace {

struct Loaded {
  std::mutex mutex;
  std::optional<Result<std::shared_ptr<Cuda>>> machine;  ///< asked once, a failure too
  std::shared_ptr<Cuda> other;
};

// Never destroyed: at exit the CUDA runtime may be gone before whatever still holds it here.
Loaded& loaded() {
  static Loaded* const all = new Loaded;
  return *all;
}

}  // namespace

Result<std::shared_ptr<Cuda>> load_cuda() {
  Loaded& all = loaded();
  const std::lock_guard lock(all.mutex);
  if (all.other != nullptr) return all.other;
  if (!all.machine) all.machine = make_machine_cuda();
  return *all.machine;
}

void set_cuda(std::shared_ptr<Cuda> cuda) {
  Loaded& all = loaded();
  const std::lock_guard lock(all.mutex);
  std::swap(all.other, cuda);
}

}  // namespace weightcast::driver
