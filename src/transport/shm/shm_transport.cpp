#include "transport/shm/shm_transport.hpp"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "staging/object_name.hpp"
#include "transport/bucket_runs.hpp"
#include "transport/copy_pool.hpp"
#include "transport/flight.hpp"
#include "transport/shm/slot_cache.hpp"

namespace weightcast::transport {
namespace {

class ShmLane final : public Lane {
 public:
  ShmLane(const LaneOptions& options, SlotUse use, std::unique_ptr<Flight> flight)
      : cache_(std::move(use)),
        flight_(std::move(flight)),
        pool_(options.copy_threads, *flight_) {}

  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address) override {
    return cache_.acquire(address);
  }
  Result<std::shared_ptr<Draft>> follow(const SegmentAddress& address) override {
    return cache_.follow(address);
  }

  Status submit(const std::shared_ptr<Segment>& segment, Bucket bucket) override {
    auto* const shm = dynamic_cast<ShmSegment*>(segment.get());
    if (shm == nullptr) {
      return Status(Code::kInvalid, "submit needs a segment that a shm lane acquired");
    }
    const std::span<const std::byte> payload = shm->view();
    if (Status fits = check_bucket(bucket, payload.size()); !fits) return fits;
    if (Status begun = flight_->begin(); !begun) return begun;
    if (Status started = pool_.start(); !started) {
      flight_->undo();
      return started;
    }
    const std::uint64_t offset = bucket.offset;
    const std::uint64_t bytes = bucket.bytes();
    CopyPool::Job job{segment, payload, offset, bytes, std::move(bucket)};
    job.version = shm->version().number;
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
  SlotCache cache_;
  const std::unique_ptr<Flight> flight_;
  CopyPool pool_;
};

}  // namespace

Status ShmTransport::viable() const {
  const std::string folder = staging::kShmDirectory;
  struct statvfs mount {};
  if (::statvfs(folder.c_str(), &mount) != 0) {
    return Status(Code::kUnavailable, "no shared memory: " + folder + ": " +
                                          std::generic_category().message(errno) +
                                          "; mount a tmpfs there");
  }
  if ((mount.f_flag & ST_RDONLY) != 0 || ::access(folder.c_str(), R_OK | W_OK | X_OK) != 0) {
    return Status(Code::kDenied, "shared memory cannot be written: " + folder +
                                     " must be mounted read-write and open to uid " +
                                     std::to_string(::geteuid()));
  }
  return Status::ok();
}

Result<std::unique_ptr<Lane>> ShmTransport::open_lane(const LaneOptions& options) {
  auto flight = Flight::make(options);
  if (!flight) return flight.status();
  return std::unique_ptr<Lane>(std::make_unique<ShmLane>(options, use_, std::move(*flight)));
}

}  // namespace weightcast::transport
