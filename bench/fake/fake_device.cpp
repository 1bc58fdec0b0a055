// Puts a device in host memory in the machine's place before main(), in builds of the device
// benchmarks for tests of what drives them, on machines without a GPU.
#include <memory>

#include "driver/cuda.hpp"
#include "support/fake_cuda.hpp"

namespace {

const bool is_set = [] {
  weightcast::driver::FakeOptions options;
  options.threaded = true;
  options.device_bytes = std::uint64_t{4} << 30;
  weightcast::driver::set_cuda(std::make_shared<weightcast::driver::FakeCuda>(options));
  return true;
}();

}  // namespace
