#include "transport/shm/shm_transport.hpp"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "staging/object_name.hpp"
#include "transport/shm/copy_pool.hpp"
#include "transport/shm/slot_cache.hpp"

namespace weightcast::transport {
namespace {

class ShmLane final : public Lane {
 public:
  ShmLane(const LaneOptions& options, base::UniqueFd event) : pool_(options, std::move(event)) {}

  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address) override {
    return cache_.acquire(address);
  }

  Status submit(const std::shared_ptr<Segment>& segment, Bucket bucket) override {
    auto* const shm = dynamic_cast<ShmSegment*>(segment.get());
    if (shm == nullptr) {
      return Status(Code::kInvalid, "submit needs a segment that a shm lane acquired");
    }
    const std::span<std::byte> bytes = shm->view();
    const std::uint64_t wanted = bucket.destination.size();
    if (bucket.offset > bytes.size() || wanted > bytes.size() - bucket.offset) {
      return Status(Code::kInvalid,
                    "bucket " + std::to_string(bucket.id) + " asks for " + std::to_string(wanted) +
                        " bytes at " + std::to_string(bucket.offset) +
                        ", but the segment has only " + std::to_string(bytes.size()));
    }
    const auto source = bytes.subspan(bucket.offset, wanted);
    return pool_.submit({segment, source, std::move(bucket)});
  }

  std::size_t poll(std::span<Completion> out) override { return pool_.poll(out); }
  int event_fd() const noexcept override { return pool_.event_fd(); }
  Status close(Deadline deadline) override { return pool_.close(deadline); }
  void abort() noexcept override { pool_.abort(); }

 private:
  SlotCache cache_;
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
  if (options.copy_threads < 1 || options.copy_threads > 64) {
    return Status(Code::kInvalid,
                  "copy_threads is " + std::to_string(options.copy_threads) + ": expected 1 to 64");
  }
  if (options.max_in_flight == 0) {
    return Status(Code::kInvalid, "max_in_flight is 0: expected 1 or more");
  }
  base::UniqueFd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event) {
    return Status(Code::kExhausted,
                  "cannot create an eventfd: " + std::generic_category().message(errno) +
                      "; raise the limit on open files (ulimit -n)");
  }
  return std::unique_ptr<Lane>(std::make_unique<ShmLane>(options, std::move(event)));
}

}  // namespace weightcast::transport
