// Device allocations of other processes, opened once each for all of this process.
#pragma once

#include <memory>
#include <string>

#include "driver/cuda.hpp"

namespace weightcast::transport {

/// Closed with the last one who holds it. Thread safety: immutable.
class OpenedMemory {
 public:
  /// Joins those who have it open, or opens it.
  /// @param owner who exported it: the same handle of another owner is another allocation
  /// @return as Cuda::open_memory; one of this process's own is kInvalid, and the message says what
  ///   to do
  static Result<std::shared_ptr<const OpenedMemory>> open(std::shared_ptr<driver::Cuda> cuda,
                                                          int device, const std::string& owner,
                                                          const driver::IpcHandle& handle);
  ~OpenedMemory();
  OpenedMemory(const OpenedMemory&) = delete;
  OpenedMemory& operator=(const OpenedMemory&) = delete;

  int device() const noexcept { return device_; }
  const std::byte* data() const noexcept { return static_cast<const std::byte*>(memory_); }

 private:
  OpenedMemory(std::shared_ptr<driver::Cuda> cuda, int device, void* memory)
      : cuda_(std::move(cuda)), device_(device), memory_(memory) {}

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  void* const memory_;
};

}  // namespace weightcast::transport
