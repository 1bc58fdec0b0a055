// The CUDA runtime behind a table of calls: one implementation makes them, one is a fake in host
// memory that records them and injects errors (fake_cuda.hpp). Nothing else in the tree knows CUDA.
//
// All calls name their device; none depends on, or changes, the calling thread's current one.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <weightcast/status.hpp>
#include <weightcast/types.hpp>

#include "base/digest.hpp"

namespace weightcast::driver {

/// What cudaStream_t and cudaEvent_t are: opaque. A null stream is the device's default one.
using Stream = void*;
using Event = void*;

/// What cudaIpcMemHandle_t is: names an allocation to other processes of the host.
struct IpcHandle {
  std::array<std::byte, 64> bytes{};
  bool operator==(const IpcHandle&) const = default;
};

struct DeviceProperties {
  std::string name;
  std::string identity;  ///< "GPU-<uuid>": the same in every process that sees this device
  int multiprocessors = 0;
  bool registers_read_only = false;  ///< host memory can be registered for reading alone
};

struct DeviceMemory {
  std::uint64_t free = 0;
  std::uint64_t total = 0;
};

/// Any mix of host and device addresses (unified addressing). Pageable host memory makes a copy
/// synchronous.
struct CopyItem {
  void* to = nullptr;
  const void* from = nullptr;
  std::uint64_t bytes = 0;
};

/// Bytes whose digest is added to sum number `sum` of the job.
struct DigestPart {
  const void* data = nullptr;    ///< device memory (or registered host memory, read over the bus)
  std::uint64_t bytes = 0;       ///< a multiple of 8, but for a part that ends its tensor
  std::uint64_t first_word = 0;  ///< where they begin in their tensor, in words of 8 bytes
  std::uint32_t sum = 0;
  /// Device memory where the bytes are copied as they are read, so that both cost one pass; its
  /// address a multiple of 8, of 16 for full speed. Null: nowhere.
  void* to = nullptr;
};

/// Elements that become another type (codec/convert.hpp says how) or, with strides, contiguous.
struct GatherItem {
  void* to = nullptr;  ///< device memory, contiguous, elements of `to_type`
  DType to_type = DType::kF32;
  const void* from = nullptr;
  DType from_type = DType::kF32;
  std::uint64_t elements = 0;
  std::span<const std::int64_t> shape{};    ///< with strides: of the tensor; else empty
  std::span<const std::int64_t> strides{};  ///< in elements; empty: contiguous
};

/// Digests computed on a device, again and again with one allocation: tables and sums are taken when
/// it is made. One run at a time. Thread safety: one thread.
class DigestJob {
 public:
  virtual ~DigestJob() = default;
  /// Queues: clear the sums, add those of `parts` (and copy these), bring them to the host.
  /// @return kInvalid for more parts or sums than it was made for, and for a place to copy to that is
  ///   not aligned
  virtual Status start(std::span<const DigestPart> parts, Stream stream) = 0;
  /// Valid once what start() queued is over (an event recorded after it on the same stream).
  virtual std::span<const base::Digest> sums() const noexcept = 0;
};

/// Thread safety: any thread, but for what its objects say. Errors: kExhausted for memory, kInvalid
/// for arguments that CUDA refuses, kUnavailable for a device that is lost (then nothing on it works
/// any more), kInternal for the rest; the message has CUDA's own name and text.
class Cuda {
 public:
  virtual ~Cuda() = default;

  virtual Result<int> device_count() = 0;
  virtual Result<DeviceProperties> properties(int device) = 0;
  virtual Result<DeviceMemory> memory(int device) = 0;
  /// The device whose memory an address lies in; -1: host memory, registered or not.
  virtual Result<int> device_of(const void* address) = 0;

  /// Blocks; may wait for the device.
  virtual Result<void*> allocate(int device, std::uint64_t bytes) = 0;
  virtual void free(int device, void* memory) noexcept = 0;
  /// Pinned host memory.
  virtual Result<void*> allocate_host(std::uint64_t bytes) = 0;
  virtual void free_host(void* memory) noexcept = 0;
  /// Pins host memory that is there already (whole pages; for all devices), in pieces where it is
  /// large. Takes about 40 ms a GB of touched pages: at start-up only. A private file mapping would
  /// get pages of its own: map it shared.
  virtual Status register_host(void* memory, std::uint64_t bytes) = 0;
  virtual void unregister_host(void* memory, std::uint64_t bytes) noexcept = 0;

  /// Non-blocking with respect to the default stream. `urgent`: of the greatest priority.
  virtual Result<Stream> create_stream(int device, bool urgent) = 0;
  virtual void destroy_stream(int device, Stream stream) noexcept = 0;
  /// `timed`: can be given to elapsed().
  virtual Result<Event> create_event(int device, bool timed) = 0;
  virtual void destroy_event(int device, Event event) noexcept = 0;
  virtual Status record(int device, Event event, Stream stream) = 0;
  /// Whether what was queued before the record is over; true for an event never recorded. An error of
  /// that work comes out here.
  virtual Result<bool> done(int device, Event event) = 0;
  /// The stream waits, not the caller.
  virtual Status wait(int device, Stream stream, Event event) = 0;
  /// Blocks until all work queued on the device so far is over.
  virtual Status synchronize(int device) = 0;
  /// Between two timed events that are over.
  virtual Result<std::chrono::nanoseconds> elapsed(int device, Event from, Event to) = 0;

  /// Queues copies in any order among each other. Items of no bytes are passed over.
  virtual Status copy(int device, std::span<const CopyItem> items, Stream stream) = 0;
  virtual Status gather(int device, std::span<const GatherItem> items, Stream stream) = 0;
  virtual Result<std::unique_ptr<DigestJob>> make_digests(int device, std::size_t max_parts,
                                                          std::size_t max_sums) = 0;

  /// @param memory as allocate() returned it
  virtual Result<IpcHandle> export_memory(int device, void* memory) = 0;
  /// Maps another process's allocation; once for each allocation in a process.
  /// @return kNotFound where its process is gone, kInvalid for one of this process's own
  virtual Result<void*> open_memory(int device, const IpcHandle& handle) = 0;
  virtual void close_memory(int device, void* memory) noexcept = 0;
};

/// The machine's, the same for all of the process; made at the first call.
/// @return kUnavailable that says what is missing: built without CUDA, no driver, no device
Result<std::shared_ptr<Cuda>> load_cuda();

/// Puts another in the place of what load_cuda() gives, for tests; null: the machine's again.
void set_cuda(std::shared_ptr<Cuda> cuda);

}  // namespace weightcast::driver
