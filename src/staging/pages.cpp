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

/// A page of this process's own, by its entry in /proc/self/pagemap (Linux's
/// Documentation/admin-guide/mm/pagemap.rst): there or swapped out, and not backed by the file.
bool is_private_copy(std::uint64_t entry) noexcept {
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
  constexpr std::uint64_t kFileOrShared = std::uint64_t{1} << 61;
  return (entry & (kPresent | kSwapped)) != 0 && (entry & kFileOrShared) == 0;
}

/// Drops runs of pages and, at the end, reads in what they left: one call for all of them, because
/// walking over pages that are there is cheap and a call for each is not.
class Refresher {
 public:
  void drop(std::byte* begin, std::byte* end) noexcept {
    const auto bytes = static_cast<std::size_t>(end - begin);
    if (::madvise(begin, bytes, MADV_DONTNEED) != 0) {
      // Refused for locked pages, which a program that calls mlockall() has.
      ::munlock(begin, bytes);
      if (::madvise(begin, bytes, MADV_DONTNEED) != 0) failed_ = true;
    }
    if (dropped_ == 0) first_ = begin;
    last_ = end;
    dropped_ += bytes;
  }
  std::optional<std::size_t> finish() const noexcept {
    if (failed_) return std::nullopt;
    if (dropped_ > 0) touch_for_reading({first_, last_});
    return dropped_;
  }

 private:
  std::byte* first_ = nullptr;
  std::byte* last_ = nullptr;
  std::size_t dropped_ = 0;
  bool failed_ = false;
};

/// Some 50 ns a page; the PAGEMAP_SCAN call of Linux 6.7 was measured to take as long.
/// @return the first page that the kernel did not tell about; the end, where it told of all
std::byte* drop_found(int pagemap, std::span<std::byte> pages, Refresher& refresher) noexcept {
  const std::size_t page = page_bytes();
  const std::size_t count = pages.size() / page;
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(pages.data()) / page;
  std::array<std::uint64_t, 1024> entries;
  std::byte* run = nullptr;  // where a run of private copies began
  std::size_t at = 0;
  while (at < count) {
    const std::size_t want = std::min(count - at, entries.size());
    const ssize_t got = ::pread(pagemap, entries.data(), want * sizeof entries[0],
                                static_cast<off_t>((first + at) * sizeof entries[0]));
    const std::size_t known = got > 0 ? static_cast<std::size_t>(got) / sizeof entries[0] : 0;
    if (known == 0) break;
    for (std::size_t i = 0; i < known; ++i) {
      std::byte* const here = pages.data() + (at + i) * page;
      if (is_private_copy(entries[i])) {
        if (run == nullptr) run = here;
      } else if (run != nullptr) {
        refresher.drop(run, here);
        run = nullptr;
      }
    }
    at += known;
  }
  std::byte* const stopped = pages.data() + at * page;
  if (run != nullptr) refresher.drop(run, stopped);
  return stopped;
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

std::optional<std::size_t> drop_private_copies(std::span<std::byte> pages,
                                               PrivatePages which) noexcept {
  Refresher refresher;
  std::byte* at = pages.data();
  std::byte* const end = at + pages.size();
  if (which == PrivatePages::kFind) {
    // Opened each time: after a fork, a descriptor from before would show the parent's pages.
    const base::UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    if (pagemap) at = drop_found(pagemap.get(), pages, refresher);
  }
  if (at != end) refresher.drop(at, end);
  return refresher.finish();
}

}  // namespace weightcast::staging
