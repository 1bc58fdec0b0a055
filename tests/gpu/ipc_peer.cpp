// The other process of cuda_ipc_test. Says and hears lines on its standard streams.
//
//   ipc_peer own               allocates, fills with 6, says the handle, ends when its input does
//   ipc_peer fill HANDLE N     opens the handle, fills its first byte with N, says "done"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "gpu/ipc_handle_text.hpp"

namespace {

using namespace weightcast;
using namespace weightcast::driver;

constexpr std::uint64_t kBytes = 4 << 20;

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

Status own(Cuda& cuda) {
  auto* memory = cuda.allocate(0, kBytes).value_or_throw();
  const std::string filled(kBytes, '\6');
  const CopyItem item{memory, filled.data(), kBytes};
  if (Status s = cuda.copy(0, {&item, 1}, nullptr); !s) return s;
  if (Status s = cuda.synchronize(0); !s) return s;
  say(to_text(cuda.export_memory(0, memory).value_or_throw()));
  while (std::getchar() != EOF) {
  }
  cuda.free(0, memory);
  return {};
}

Status fill(Cuda& cuda, const std::string& handle, const std::string& value) {
  auto* memory = cuda.open_memory(0, from_text(handle)).value_or_throw();
  const char byte = static_cast<char>(std::atoi(value.c_str()));
  const CopyItem item{memory, &byte, 1};
  if (Status s = cuda.copy(0, {&item, 1}, nullptr); !s) return s;
  if (Status s = cuda.synchronize(0); !s) return s;
  cuda.close_memory(0, memory);
  say("done");
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto cuda = load_cuda().value_or_throw();
    const std::string what = argc > 1 ? argv[1] : "";
    Status status(Code::kInvalid, "expected own, or fill HANDLE N");
    if (what == "own") status = own(*cuda);
    if (what == "fill" && argc == 4) status = fill(*cuda, argv[2], argv[3]);
    if (!status) say(status.to_string());
    return status ? 0 : 1;
  } catch (const Error& error) {
    say(error.what());
    return 1;
  }
}
