#include "staging/pages.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/unique_fd.hpp"
#include "staging/slot_format.hpp"

namespace weightcast::staging {
namespace {

// Since Linux 5.14; the C library's headers may be older than the kernel.
constexpr int kPopulateRead = 22;   // MADV_POPULATE_READ
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE

/// Drops one range and reads it in again.
void refresh(std::span<std::byte> pages) noexcept {
  ::madvise(pages.data(), pages.size(), MADV_DONTNEED);
  touch_for_reading(pages);
}

/// A page of this process's own, by its entry in /proc/self/pagemap (Linux's
/// Documentation/admin-guide/mm/pagemap.rst): there or swapped out, and not backed by the file.
bool is_private_copy(std::uint64_t entry) noexcept {
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
  constexpr std::uint64_t kFileOrShared = std::uint64_t{1} << 61;
  return (entry & (kPresent | kSwapped)) != 0 && (entry & kFileOrShared) == 0;
}

}  // namespace

void touch_for_writing(std::span<std::byte> pages) noexcept {
  if (::madvise(pages.data(), pages.size(), kPopulateWrite) == 0) return;
  for (std::size_t at = 0; at < pages.size(); at += page_bytes()) {
    *const_cast<volatile std::byte*>(pages.data() + at) = std::byte{0};
  }
}

void touch_for_reading(std::span<std::byte> pages) noexcept {
  if (::madvise(pages.data(), pages.size(), kPopulateRead) == 0) return;
  for (std::size_t at = 0; at < pages.size(); at += page_bytes()) {
    (void)*const_cast<const volatile std::byte*>(pages.data() + at);
  }
}

std::size_t drop_private_copies(std::span<std::byte> pages) noexcept {
  const std::size_t page = page_bytes();
  const std::size_t count = pages.size() / page;
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(pages.data()) / page;
  // Opened each time: after a fork, a descriptor from before would show the parent's pages.
  const base::UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));

  std::array<std::uint64_t, 1024> entries;
  std::size_t dropped = 0;
  std::size_t run_start = 0;  // of a run of private copies, in pages
  std::size_t run_length = 0;
  const auto end_run = [&] {
    if (run_length == 0) return;
    refresh(pages.subspan(run_start * page, run_length * page));
    dropped += run_length * page;
    run_length = 0;
  };
  std::size_t at = 0;
  while (at < count) {
    const std::size_t want = std::min(count - at, entries.size());
    const ssize_t got = pagemap ? ::pread(pagemap.get(), entries.data(), want * sizeof entries[0],
                                          static_cast<off_t>((first + at) * sizeof entries[0]))
                                : -1;
    const std::size_t known = got > 0 ? static_cast<std::size_t>(got) / sizeof entries[0] : 0;
    if (known == 0) {  // not said: the rest counts as private
      end_run();
      const auto rest = pages.subspan(at * page);
      refresh(rest);
      return dropped + rest.size();
    }
    for (std::size_t i = 0; i < known; ++i) {
      if (!is_private_copy(entries[i])) {
        end_run();
      } else if (run_length++ == 0) {
        run_start = at + i;
      }
    }
    at += known;
  }
  end_run();
  return dropped;
}

}  // namespace weightcast::staging
