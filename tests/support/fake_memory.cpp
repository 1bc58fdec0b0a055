#include "support/fake_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace weightcast::driver::fake {
namespace {

constexpr std::uint64_t kPage = 4096;

std::uint64_t in_pages(std::uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// What a handle's 64 bytes hold.
struct Exported {
  char mark[8] = {'f', 'a', 'k', 'e', 'c', 'u', 'd', 'a'};
  std::int64_t pid = 0;
  std::int64_t fd = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t device = 0;
};
static_assert(sizeof(Exported) <= sizeof(IpcHandle::bytes));

std::string text(const void* address) {
  char out[32];
  std::snprintf(out, sizeof out, "%p", address);
  return out;
}

Status exhausted(const char* what, std::uint64_t bytes) {
  return {Code::kExhausted, std::string("cudaErrorMemoryAllocation: ") + what + " of " +
                                std::to_string(bytes) + " bytes"};
}

bool is_mapped(const std::byte* page) {
  unsigned char resident = 0;
  return ::mincore(const_cast<std::byte*>(page), 1, &resident) == 0 || errno != ENOMEM;
}

}  // namespace

Memory::Memory(int devices, std::uint64_t device_bytes)
    : total_(static_cast<std::size_t>(devices), device_bytes),
      used_(static_cast<std::size_t>(devices), 0) {}

Memory::~Memory() {
  for (auto& [begin, range] : ranges_) {
    if (range.kind == Kind::kRegistered) continue;
    ::munmap(range.begin, in_pages(range.bytes));
    if (range.fd >= 0) ::close(range.fd);
  }
}

DeviceMemory Memory::room(int device) const {
  const auto d = static_cast<std::size_t>(device);
  return {total_[d] - std::min(total_[d], used_[d]), total_[d]};
}

Result<void*> Memory::add(Range range) {
  // The system gives addresses out again.
  const std::byte* end = range.begin + range.bytes;
  for (auto it = gone_.begin(); it != gone_.end();) {
    it = it->first < end && range.begin < it->first + it->second ? gone_.erase(it) : std::next(it);
  }
  ranges_[range.begin] = range;
  return static_cast<void*>(range.begin);
}

Result<void*> Memory::allocate(int device, std::uint64_t bytes) {
  if (bytes == 0) return Status(Code::kInvalid, "expected at least one byte of device memory");
  if (bytes > room(device).free) return exhausted("device memory", bytes);
  const int fd = ::memfd_create("weightcast fake device memory", MFD_CLOEXEC);
  if (fd < 0) return exhausted("a memfd", bytes);
  void* at = MAP_FAILED;
  struct stat state {};
  if (::ftruncate(fd, static_cast<off_t>(in_pages(bytes))) == 0 && ::fstat(fd, &state) == 0) {
    at = ::mmap(nullptr, in_pages(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (at == MAP_FAILED) {
    ::close(fd);
    return exhausted("device memory", bytes);
  }
  used_[static_cast<std::size_t>(device)] += bytes;
  return add({static_cast<std::byte*>(at), bytes, Kind::kDevice, device, fd, state.st_ino});
}

Result<void*> Memory::allocate_host(std::uint64_t bytes) {
  if (bytes == 0) return Status(Code::kInvalid, "expected at least one byte of pinned memory");
  void* at = ::mmap(nullptr, in_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                    -1, 0);
  if (at == MAP_FAILED) return exhausted("pinned memory", bytes);
  return add({static_cast<std::byte*>(at), bytes, Kind::kPinned});
}

Status Memory::add_registered(void* memory, std::uint64_t bytes) {
  auto* begin = static_cast<std::byte*>(memory);
  if (bytes == 0 || reinterpret_cast<std::uintptr_t>(memory) % kPage != 0 || bytes % kPage != 0) {
    return {Code::kInvalid, "expected whole pages to register, got " + std::to_string(bytes) +
                                " bytes at " + text(memory)};
  }
  for (const auto& [other, range] : ranges_) {
    if (other < begin + bytes && begin < other + range.bytes) {
      return {Code::kInvalid, "cudaErrorHostMemoryAlreadyRegistered: " + text(memory) +
                                  " overlaps a range at " + text(other)};
    }
  }
  if (!is_mapped(begin) || !is_mapped(begin + bytes - kPage)) {
    return {Code::kInvalid, "nothing is mapped at " + text(memory) + " to register"};
  }
  return add({begin, bytes, Kind::kRegistered}).status();
}

Result<IpcHandle> Memory::export_range(int device, void* memory) const {
  const auto it = ranges_.find(static_cast<std::byte*>(memory));
  if (it == ranges_.end() || it->second.kind != Kind::kDevice || it->second.device != device) {
    return Status(Code::kInvalid, "expected the start of an allocation of device " +
                                      std::to_string(device) + " to export, got " + text(memory));
  }
  Exported exported;
  exported.pid = ::getpid();
  exported.fd = it->second.fd;
  exported.inode = it->second.inode;
  exported.bytes = it->second.bytes;
  exported.device = device;
  IpcHandle handle;
  std::memcpy(handle.bytes.data(), &exported, sizeof exported);
  return handle;
}

Result<void*> Memory::open(int device, const IpcHandle& handle, bool own_too, bool are_peers) {
  Exported exported;
  std::memcpy(&exported, handle.bytes.data(), sizeof exported);
  if (std::memcmp(exported.mark, Exported{}.mark, sizeof exported.mark) != 0) {
    return Status(Code::kInvalid, "cudaErrorInvalidValue: not a handle that export_memory() gave");
  }
  if (exported.device != device && !are_peers) {
    return Status(Code::kInternal, "cudaErrorPeerAccessUnsupported: the handle's memory is on device " +
                                       std::to_string(exported.device) +
                                       ", asked for on device " + std::to_string(device));
  }
  if (exported.pid == ::getpid() && !own_too) {
    return Status(Code::kInvalid, "the handle is of this process's own memory");
  }
  for (const auto& [begin, range] : ranges_) {
    if (range.kind == Kind::kOpened && range.inode == exported.inode && range.device == device) {
      return Status(Code::kInvalid, "the handle is open already, at " + text(begin));
    }
  }
  const std::string path =
      "/proc/" + std::to_string(exported.pid) + "/fd/" + std::to_string(exported.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat state {};
  const bool same = fd >= 0 && ::fstat(fd, &state) == 0 && state.st_ino == exported.inode;
  void* at = MAP_FAILED;
  if (same) {
    at = ::mmap(nullptr, in_pages(exported.bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (fd >= 0) ::close(fd);
  if (!same) {
    return Status(Code::kNotFound, "the memory of process " + std::to_string(exported.pid) +
                                       " is gone, or it freed that");
  }
  if (at == MAP_FAILED) return exhausted("a mapping", exported.bytes);
  return add({static_cast<std::byte*>(at), exported.bytes, Kind::kOpened, device, -1,
              exported.inode});
}

std::string Memory::remove(void* memory, Kind kind, int device, std::uint64_t bytes) {
  const auto it = ranges_.find(static_cast<std::byte*>(memory));
  if (it == ranges_.end() || it->second.kind != kind || it->second.device != device) {
    const bool twice = gone_.contains(static_cast<std::byte*>(memory));
    return twice ? text(memory) + " freed twice" : text(memory) + " is not what such a call gave";
  }
  const Range range = it->second;
  if (bytes != 0 && bytes != range.bytes) {
    return text(memory) + " has " + std::to_string(range.bytes) + " bytes, not " +
           std::to_string(bytes);
  }
  ranges_.erase(it);
  if (kind == Kind::kRegistered) return {};
  if (kind == Kind::kDevice) used_[static_cast<std::size_t>(device)] -= range.bytes;
  ::munmap(range.begin, in_pages(range.bytes));
  if (range.fd >= 0) ::close(range.fd);
  gone_[range.begin] = range.bytes;
  return {};
}

const Range* Memory::find(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  auto it = ranges_.upper_bound(at);
  if (it == ranges_.begin()) return nullptr;
  --it;
  return at < it->first + it->second.bytes ? &it->second : nullptr;
}

std::optional<std::string> Memory::wrong_with(const void* address, std::uint64_t bytes) const {
  const auto* at = static_cast<const std::byte*>(address);
  if (const Range* range = find(address)) {
    const auto left = static_cast<std::uint64_t>(range->begin + range->bytes - at);
    if (bytes <= left) return std::nullopt;
    return std::to_string(bytes) + " bytes at " + text(address) + " reach " +
           std::to_string(bytes - left) + " beyond the end of their allocation";
  }
  for (const auto& [begin, length] : gone_) {
    if (at < begin + length && begin < at + bytes) return text(address) + " was freed";
  }
  const auto next = ranges_.upper_bound(at);
  if (next != ranges_.end() && next->first < at + bytes) {
    return std::to_string(bytes) + " bytes at " + text(address) +
           " begin in plain host memory and reach into an allocation";
  }
  const auto page = [](const std::byte* a) {
    return reinterpret_cast<const std::byte*>(reinterpret_cast<std::uintptr_t>(a) / kPage * kPage);
  };
  if (at == nullptr || !is_mapped(page(at)) || !is_mapped(page(at + bytes - 1))) {
    return "nothing is mapped at " + text(address);
  }
  return std::nullopt;
}

bool Memory::was_freed(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  return std::any_of(gone_.begin(), gone_.end(), [&](const auto& it) {
    return it.first <= at && at < it.first + it.second;
  });
}

std::size_t Memory::count(Kind kind) const {
  return static_cast<std::size_t>(std::count_if(
      ranges_.begin(), ranges_.end(), [&](const auto& it) { return it.second.kind == kind; }));
}

}  // namespace weightcast::driver::fake
