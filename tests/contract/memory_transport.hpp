// A transport inside one process, of ordinary memory: it shows that the contract suite is about the
// interface, and serves where a test needs any transport.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "transport/bucket_runs.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Where sources put versions and lanes find them. Thread safety: all calls from any thread.
class MemoryBoard {
 public:
  struct Slot {
    Version version;
    std::uint64_t generation = 0;
    std::vector<std::byte> bytes;
    int holders = 0;
  };

  /// Writes a version with `fill` and seals it. @return generation, 0 while somebody holds the slot
  std::uint64_t put(const std::string& object, const Version& version, std::uint64_t bytes,
                    const std::function<void(std::span<std::byte>)>& fill) {
    const std::lock_guard lock(mutex_);
    auto& slot = slots_[object];
    if (!slot) slot = std::make_shared<Slot>();
    if (slot->holders > 0) return 0;
    slot->version = version;
    slot->bytes.resize(bytes);
    fill(slot->bytes);
    return ++slot->generation;
  }

  bool is_held(const std::string& object) {
    const std::lock_guard lock(mutex_);
    const auto found = slots_.find(object);
    return found != slots_.end() && found->second->holders > 0;
  }

  /// Forgets all objects; those who hold one keep it.
  void clear() {
    const std::lock_guard lock(mutex_);
    slots_.clear();
  }

  Result<std::shared_ptr<Slot>> hold(const SegmentAddress& address) {
    const std::lock_guard lock(mutex_);
    const auto found = slots_.find(address.object);
    if (found == slots_.end()) return Status(Code::kNotFound, "no object " + address.object);
    Slot& slot = *found->second;
    if (slot.version != address.version || slot.generation != address.generation ||
        slot.bytes.size() != address.payload_bytes) {
      return Status(Code::kStale, address.object + " holds another version");
    }
    ++slot.holders;
    return found->second;
  }

  void let_go(Slot& slot) {
    const std::lock_guard lock(mutex_);
    --slot.holders;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Slot>> slots_;
};

class MemorySegment final : public Segment {
 public:
  MemorySegment(std::shared_ptr<MemoryBoard> board, std::shared_ptr<MemoryBoard::Slot> slot)
      : board_(std::move(board)), slot_(std::move(slot)), private_(slot_->bytes) {}
  ~MemorySegment() override { board_->let_go(*slot_); }
  std::span<std::byte> view() noexcept override { return private_; }
  std::span<const std::byte> bytes() const noexcept { return slot_->bytes; }

 private:
  std::shared_ptr<MemoryBoard> board_;
  std::shared_ptr<MemoryBoard::Slot> slot_;
  std::vector<std::byte> private_;
};

/// Copies on one thread, bucket by bucket.
class MemoryLane final : public Lane {
 public:
  MemoryLane(std::shared_ptr<MemoryBoard> board, const LaneOptions& options)
      : board_(std::move(board)),
        options_(options),
        event_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        thread_([this] { run(); }) {}
  ~MemoryLane() override {
    abort();
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
    ::close(event_);
  }

  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address) override {
    auto slot = board_->hold(address);
    if (!slot) return slot.status();
    return std::shared_ptr<Segment>(std::make_shared<MemorySegment>(board_, *slot));
  }

  Status submit(const std::shared_ptr<Segment>& segment, Bucket bucket) override {
    const auto memory = std::dynamic_pointer_cast<MemorySegment>(segment);
    if (!memory) return Status(Code::kInvalid, "not a segment of this transport");
    if (Status fits = check_bucket(bucket, memory->bytes().size()); !fits) return fits;
    const std::lock_guard lock(mutex_);
    if (closed_) return Status(Code::kCancelled, "closed");
    if (waiting_.size() + busy_ + done_.size() >= options_.max_in_flight) {
      return Status(Code::kExhausted, "too many in flight");
    }
    waiting_.emplace_back(memory, std::move(bucket));
    changed_.notify_all();
    return Status::ok();
  }

  std::size_t poll(std::span<Completion> out) override {
    const std::lock_guard lock(mutex_);
    std::size_t count = 0;
    for (; count < out.size() && !done_.empty(); ++count) {
      out[count] = std::move(done_.front());
      done_.pop_front();
    }
    std::uint64_t events = 0;
    if (count > 0 && done_.empty()) (void)!::read(event_, &events, sizeof events);
    return count;
  }

  int event_fd() const noexcept override { return event_; }

  Status close(Deadline deadline) override {
    std::unique_lock lock(mutex_);
    closed_ = true;
    const bool idle =
        changed_.wait_until(lock, deadline, [&] { return waiting_.empty() && busy_ == 0; });
    return idle ? Status::ok() : Status(Code::kDeadline, "still in flight");
  }

  void abort() noexcept override {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (auto& job : std::exchange(waiting_, {})) {
      complete({job.second.id, Status(Code::kCancelled, "aborted")});
    }
    changed_.notify_all();
  }

 private:
  using Job = std::pair<std::shared_ptr<MemorySegment>, Bucket>;

  void complete(Completion completion) {
    const std::uint64_t one = 1;
    if (done_.empty()) (void)!::write(event_, &one, sizeof one);
    done_.push_back(std::move(completion));
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      Job job = std::move(waiting_.front());
      waiting_.pop_front();
      busy_ = 1;
      lock.unlock();
      const Bucket& bucket = job.second;
      const auto all = job.first->bytes();
      each_piece(all, bucket.offset, bucket.bytes(), bucket.strips, all.size(),
                 [&](std::size_t at, std::span<const std::byte> piece) {
                   if (bucket.place) {
                     bucket.place(at, piece);
                   } else {
                     std::copy(piece.begin(), piece.end(), bucket.destination.data() + at);
                   }
                   return true;
                 });
      const std::uint64_t id = bucket.id;
      job = Job{};
      lock.lock();
      busy_ = 0;
      complete({id, Status::ok()});
      changed_.notify_all();
    }
  }

  const std::shared_ptr<MemoryBoard> board_;
  const LaneOptions options_;
  const int event_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  std::deque<Completion> done_;
  std::size_t busy_ = 0;
  bool closed_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

class MemoryTransport final : public Transport {
 public:
  explicit MemoryTransport(std::shared_ptr<MemoryBoard> board) : board_(std::move(board)) {}
  std::string_view name() const noexcept override { return "memory"; }
  Status viable() const override { return Status::ok(); }
  Reach reach() const noexcept override { return Reach::kHost; }
  Result<std::unique_ptr<Lane>> open_lane(const LaneOptions& options) override {
    if (options.copy_threads == 0 || options.max_in_flight == 0) {
      return Status(Code::kInvalid, "expected one thread and one bucket or more");
    }
    return std::unique_ptr<Lane>(std::make_unique<MemoryLane>(board_, options));
  }

 private:
  std::shared_ptr<MemoryBoard> board_;
};

}  // namespace weightcast::transport
