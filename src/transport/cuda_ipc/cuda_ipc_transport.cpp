#include "transport/cuda_ipc/cuda_ipc_transport.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "base/log.hpp"
#include "staging/object_name.hpp"
#include "transport/bucket_runs.hpp"
#include "transport/copy_pool.hpp"
#include "transport/cuda_ipc/device_reader.hpp"
#include "transport/cuda_ipc/opened_memory.hpp"
#include "transport/flight.hpp"
#include "transport/shm/slot_cache.hpp"

namespace weightcast::transport {
namespace {

class DeviceSegment final : public Segment {
 public:
  DeviceSegment(SlotHold hold, std::shared_ptr<const OpenedMemory> memory, int reader,
                const SegmentAddress& address) noexcept
      : memory_(std::move(memory)),
        hold_(std::move(hold)),
        payload_(memory_->data() + address.device_offset, address.payload_bytes),
        is_near_(reader < 0 || reader == memory_->device()) {}

  std::span<std::byte> view() noexcept override { return {}; }
  std::span<const std::byte> device_view() noexcept override {
    return is_near_ ? payload_ : std::span<const std::byte>();
  }
  std::span<const std::byte> payload() const noexcept { return payload_; }
  int device() const noexcept { return memory_->device(); }

 private:
  const std::shared_ptr<const OpenedMemory> memory_;
  const SlotHold hold_;
  const std::span<const std::byte> payload_;
  const bool is_near_;
};

class CudaIpcLane final : public Lane {
 public:
  CudaIpcLane(const LaneOptions& options, std::shared_ptr<driver::Cuda> cuda, int reader,
              std::unique_ptr<Flight> flight)
      : cuda_(std::move(cuda)),
        reader_(reader),
        readers_(cuda_),
        flight_(std::move(flight)),
        pool_(options.copy_threads, *flight_) {}

  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address) override {
    driver::IpcHandle handle;
    if (address.device_memory.size() != handle.bytes.size()) {
      return Status(Code::kInvalid, "slot " + address.object + ": expected a handle of " +
                                        std::to_string(handle.bytes.size()) + " bytes, got " +
                                        std::to_string(address.device_memory.size()));
    }
    std::memcpy(handle.bytes.data(), address.device_memory.data(), handle.bytes.size());
    auto held = cache_.hold(address);
    if (!held) return held.status();
    auto memory = open(address, handle);
    if (!memory) return memory.status();
    return std::shared_ptr<Segment>(
        std::make_shared<DeviceSegment>(std::move(*held), std::move(*memory), reader_, address));
  }

  Status submit(const std::shared_ptr<Segment>& segment, Bucket bucket) override {
    auto* const own = dynamic_cast<DeviceSegment*>(segment.get());
    if (own == nullptr) {
      return Status(Code::kInvalid, "submit needs a segment that a cuda_ipc lane acquired");
    }
    const std::span<const std::byte> payload = own->payload();
    if (Status fits = check_bucket(bucket, payload.size()); !fits) return fits;
    if (Status begun = flight_->begin(); !begun) return begun;
    if (Status started = pool_.start(); !started) {
      flight_->undo();
      return started;
    }
    CopyPool::Job job{.held = segment, .payload = {}, .bucket = std::move(bucket)};
    job.bring = [this, payload, device = own->device()](const CopyPool::Job& what,
                                                        const std::atomic<bool>& aborted) {
      return readers_.read(device, what.bucket, payload, aborted);
    };
    pool_.put(std::move(job));
    return Status::ok();
  }

  std::size_t poll(std::span<Completion> out) override { return flight_->poll(out); }
  int event_fd() const noexcept override { return flight_->event_fd(); }
  Status close(Deadline deadline) override { return flight_->close(deadline); }
  void abort() noexcept override {
    flight_->refuse();
    pool_.abort();
  }

 private:
  /// The device of that identity, as this process counts.
  Result<int> index_of(const std::string& identity) {
    if (const auto known = devices_.find(identity); known != devices_.end()) return known->second;
    const auto count = cuda_->device_count();
    if (!count) return count.status();
    for (int device = 0; device < *count; ++device) {
      const auto properties = cuda_->properties(device);
      if (!properties) return properties.status();
      devices_[properties->identity] = device;
    }
    if (const auto known = devices_.find(identity); known != devices_.end()) return known->second;
    return Status(Code::kUnavailable,
                  "the bytes lie on device " + identity + ", which is none of the " +
                      std::to_string(*count) +
                      " that this process sees: let it see that one too (CUDA_VISIBLE_DEVICES), or "
                      "set the trainer's staging to host");
  }

  Result<std::shared_ptr<const OpenedMemory>> open(const SegmentAddress& address,
                                                   const driver::IpcHandle& handle) {
    const std::string owner(staging::prefix_of(address.object));
    if (memory_ && owner == owner_ && handle == handle_) return memory_;
    memory_.reset();
    const auto device = index_of(address.device);
    if (!device) return device.status();
    const int at = reader_ < 0 ? *device : reader_;
    auto opened = OpenedMemory::open(cuda_, at, owner, handle);
    if (!opened && at != *device) {
      base::log(LogLevel::kWarn, "no_peer_access",
                {{"device", at},
                 {"source", *device},
                 {"why", opened.status().to_string()},
                 {"next", "bytes go through host memory; with the trainer's staging host they would "
                          "take one copy less"}});
      opened = OpenedMemory::open(cuda_, *device, owner, handle);
    }
    if (!opened) return opened.status();
    memory_ = std::move(*opened);
    owner_ = owner;
    handle_ = handle;
    return memory_;
  }

  const std::shared_ptr<driver::Cuda> cuda_;
  const int reader_;
  std::map<std::string, int> devices_;  ///< by identity
  std::string owner_;                   ///< of memory_, and the next one
  driver::IpcHandle handle_;
  std::shared_ptr<const OpenedMemory> memory_;  ///< of the present owner
  SlotCache cache_{SlotUse{staging::SlotMapping::kNone, {}}};
  DeviceReaders readers_;
  const std::unique_ptr<Flight> flight_;
  CopyPool pool_;  ///< ends first: its threads use the others
};

}  // namespace

Status CudaIpcTransport::viable() const {
  const auto count = cuda_->device_count();
  if (!count) return count.status();
  if (*count > 0) return Status::ok();
  return Status(Code::kUnavailable, "this process sees no CUDA device");
}

Result<std::unique_ptr<Lane>> CudaIpcTransport::open_lane(const LaneOptions& options) {
  auto flight = Flight::make(options);
  if (!flight) return flight.status();
  return std::unique_ptr<Lane>(
      std::make_unique<CudaIpcLane>(options, cuda_, reader_, std::move(*flight)));
}

}  // namespace weightcast::transport
