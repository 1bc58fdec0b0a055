#include "subscriber/host_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/failpoint.hpp"
#include "base/signal_mask.hpp"
#include "subscriber/fetch.hpp"

namespace weightcast::subscriber {
namespace {

/// What a copy thread takes at a time where bytes lie in shared memory.
constexpr std::uint64_t kHostCopiedBytes = 512 * 1024;
constexpr std::size_t kPieceBytes = std::size_t{256} << 10;
/// One thread more pays from here on.
constexpr std::size_t kThreadBytes = std::size_t{4} << 20;

}  // namespace

Result<std::unique_ptr<ImageBuffer>> HostBuffer::allocate(std::uint64_t bytes) {
  const std::size_t size = bytes == 0 ? 1 : static_cast<std::size_t>(bytes);
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return Status(Code::kExhausted,
                  "no memory for a copy of the policy: " + std::to_string(bytes) +
                      " bytes; use activation view, which needs none, or free memory");
  }
  ::madvise(data, size, MADV_HUGEPAGE);  // fewer page faults; where refused, nothing is lost
  return std::unique_ptr<ImageBuffer>(new HostBuffer({static_cast<std::byte*>(data), size}));
}

HostBuffer::~HostBuffer() { ::munmap(bytes().data(), bytes().size()); }

Result<MemoryBudget> HostMemory::budget(std::uint64_t configured, std::uint64_t taken) {
  return budget_of(configured, staging::measure_memory_room(), taken);
}

std::uint64_t HostMemory::bucket_bytes() const noexcept { return kHostCopiedBytes; }

Status HostMemory::fetch(const Fetch& fetch, std::uint32_t credit,
                         const std::function<bool()>& cancelled) {
  return fetch_image(fetch, credit, cancelled);
}

Status HostMemory::copy(const InPlaceCopy& copy) {
  return copy_and_compare(copy.destination, copy.source, copy.threads, copy.version.number);
}

Status copy_and_compare(std::span<std::byte> destination, std::span<const std::byte> source,
                        std::uint32_t threads, std::uint64_t number) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> differs{false};
  const auto work = [&] {
    for (;;) {
      const std::size_t at = next.fetch_add(kPieceBytes);
      if (at >= source.size()) return;
      const std::size_t bytes = std::min(kPieceBytes, source.size() - at);
      std::memcpy(destination.data() + at, source.data() + at, bytes);
      base::failpoint("engine.copying", number);
      if (std::memcmp(destination.data() + at, source.data() + at, bytes) != 0) differs = true;
    }
  };
  std::vector<std::thread> helpers;
  const std::size_t wanted = std::min<std::size_t>(threads, 1 + source.size() / kThreadBytes);
  {
    const base::ScopedSignalMask masked;
    try {
      while (helpers.size() + 1 < wanted) helpers.emplace_back(work);
    } catch (const std::system_error&) {
      // Fewer copy everything too.
    }
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (differs) {
    return Status(Code::kMismatch, "bytes copied in place are not those of the staged copy");
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
