// The I/O thread of a trainer rank: drives the source machine, and on rank 0 the coordinator too,
// over ZeroMQ.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <weightcast/publisher.hpp>

#include "base/log.hpp"
#include "protocol/coordinator.hpp"
#include "protocol/source.hpp"
#include "publisher/status_desk.hpp"
#include "stream/coordinator_link.hpp"
#include "stream/coordinator_servers.hpp"
#include "stream/rendezvous.hpp"
#include "stream/waker.hpp"

namespace weightcast::publisher {

/// What status() wants to know of the coordinator.
struct CoordinatorView {
  std::vector<protocol::Coordinator::ReceiverView> receivers;
  protocol::Coordinator::Counters counters;
  bool superseded = false;
  std::uint64_t refused_connections = 0;
};

/// Thread safety: with_source, wait and view from any thread.
class ControlLoop {
 public:
  /// What this rank tells observers of itself.
  using Reporter = std::function<protocol::SourceReport()>;

  /// Rank 0 claims the meeting place and binds; the others look for its announcement in the
  /// background.
  /// @param report called from the I/O thread once in a heartbeat; must not wait
  /// @return as Publisher::open
  static Result<std::unique_ptr<ControlLoop>> start(const PublisherOptions& options,
                                                    const std::string& place,
                                                    std::uint64_t incarnation,
                                                    protocol::SlotLocks& locks,
                                                    Reporter report);
  ~ControlLoop();  ///< says goodbye, joins within a heartbeat
  ControlLoop(const ControlLoop&) = delete;
  ControlLoop& operator=(const ControlLoop&) = delete;

  /// Calls `use(source, now)` under the lock, then lets what it wants to say go out. Where it says
  /// nothing the I/O thread is left asleep: woken, it would take the trainer's core.
  template <class Use>
  auto with_source(Use&& use) {
    WakeAfter after{*this};
    const std::lock_guard lock(mutex_);
    const OutboxCheck check{*this, after};
    return use(source_, Clock::now());
  }

  /// Waits until `until(source)` holds. @return false at the deadline
  bool wait(Deadline deadline, const std::function<bool(const protocol::Source&)>& until);

  CoordinatorView view() const;
  /// Slots that hold a sealed version which is still needed, or are being written.
  std::uint32_t slots_held() const {
    const std::lock_guard lock(mutex_);
    return book_.count_sealed() + (book_.writing() ? 1 : 0);
  }
  /// Messages that were no messages, or came from somebody who may not send them.
  std::uint64_t refused_messages() const noexcept { return refused_ + link_.malformed(); }
  /// Rank 0: where members of other hosts reach it; empty where it does not listen.
  const std::string& listening() const noexcept { return listening_; }

 private:
  struct WakeAfter {  // without the lock
    ControlLoop& loop;
    bool wanted = false;
    ~WakeAfter() {
      if (wanted) loop.waker_.wake();
    }
  };
  struct OutboxCheck {  // under the lock, after the use
    ControlLoop& loop;
    WakeAfter& wake;
    ~OutboxCheck() { wake.wanted = loop.source_.has_outbox(); }
  };

  ControlLoop(const PublisherOptions& options, std::string place, std::uint64_t incarnation,
              stream::Keys keys, protocol::SlotLocks& locks, Reporter report);
  Status become_coordinator();
  void run();
  void turn();
  void pump_server();
  void take(const stream::FromPeer& received);
  void show(protocol::Peer peer, const protocol::Message& asked, std::uint64_t ordinal);
  void refuse(protocol::Peer peer, const protocol::Member& member, protocol::Refusal reason,
              std::string why);
  void pump_client();
  void exchange();
  void send_from_coordinator(std::vector<protocol::Outgoing> messages);
  void send_from_source(std::vector<protocol::Message> messages);
  void seek_coordinator(Clock::time_point now);
  void sweep_now_and_then(Clock::time_point now);
  void look_for_successor(Clock::time_point now);
  void pass_failpoints();
  void trace_applied();
  std::chrono::milliseconds wait_time(Clock::time_point now) const;

  const PublisherOptions options_;
  const std::string place_;
  const stream::Keys keys_;  ///< null where nothing goes over tcp
  stream::Waker waker_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> refused_{0};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  protocol::SlotBook book_;
  protocol::Source source_;
  CoordinatorView view_;

  // The I/O thread's own.
  std::unique_ptr<stream::Rendezvous> rendezvous_;
  std::optional<stream::CoordinatorServers> servers_;
  std::string listening_;  ///< set before the thread starts
  std::optional<protocol::Coordinator> coordinator_;
  stream::CoordinatorLink link_;
  const Reporter report_;
  StatusDesk desk_;
  base::RateLimit role_warning_{std::chrono::seconds(10)};
  Clock::time_point next_sweep_;
  Clock::time_point next_successor_look_;
  bool sweeping_ = true;
  std::uint64_t seen_published_ = 0;
  std::uint64_t seen_committed_ = 0;
  std::uint64_t seen_applied_ = 0;
  std::thread thread_;
};

}  // namespace weightcast::publisher
