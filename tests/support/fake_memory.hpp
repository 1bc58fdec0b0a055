// Which addresses a FakeCuda knows, and what may be copied from and to. Device memory is a memfd,
// so that other processes can open it; nothing is left behind when its process dies.
// Thread safety: none; FakeCuda calls it under its lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "driver/cuda.hpp"

namespace weightcast::driver::fake {

enum class Kind { kDevice, kPinned, kRegistered, kOpened };

struct Range {
  std::byte* begin = nullptr;
  std::uint64_t bytes = 0;
  Kind kind = Kind::kDevice;
  int device = -1;  ///< of kDevice and kOpened
  int fd = -1;      ///< of kDevice
  std::uint64_t inode = 0;
};

class Memory {
 public:
  Memory(int devices, std::uint64_t device_bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  DeviceMemory room(int device) const;
  void set_room(int device, std::uint64_t bytes) { total_.at(std::size_t(device)) = bytes; }

  Result<void*> allocate(int device, std::uint64_t bytes);
  Result<void*> allocate_host(std::uint64_t bytes);
  Status add_registered(void* memory, std::uint64_t bytes);
  Result<IpcHandle> export_range(int device, void* memory) const;
  Result<void*> open(int device, const IpcHandle& handle, bool own_too, bool are_peers);
  /// Takes away a range that begins there, of that kind, device and length (0: any).
  /// @return "" or what is wrong with that
  std::string remove(void* memory, Kind kind, int device, std::uint64_t bytes);

  /// The range an address lies in; null for memory that is not this table's.
  const Range* find(const void* address) const;
  /// Null, or what is wrong with reading or writing those bytes.
  std::optional<std::string> wrong_with(const void* address, std::uint64_t bytes) const;
  /// Whether a device could read there: not plain host memory.
  bool is_pageable(const void* address) const { return find(address) == nullptr; }
  bool was_freed(const void* address) const;
  std::size_t count(Kind kind) const;

 private:
  Result<void*> add(Range range);

  std::map<const std::byte*, Range> ranges_;      ///< by their begin; they do not overlap
  std::map<const std::byte*, std::uint64_t> gone_;  ///< what was freed and not mapped again
  std::vector<std::uint64_t> total_;
  std::vector<std::uint64_t> used_;
};

}  // namespace weightcast::driver::fake
