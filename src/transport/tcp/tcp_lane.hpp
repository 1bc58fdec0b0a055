// One receiver's side of tcp: a thread that asks and hears, and threads that verify and place.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "transport/copy_pool.hpp"
#include "transport/tcp/connection.hpp"
#include "transport/tcp/lane_book.hpp"
#include "transport/tcp/tcp_transport.hpp"

namespace weightcast::transport {

class TcpLane final : public Lane {
 public:
  /// @param context and counters outlive the lane
  TcpLane(zmq::context_t& context, const TcpOptions& options, const LaneOptions& lane,
          std::unique_ptr<Flight> flight, SharedCounters& counters);
  ~TcpLane() override;

  /// Before anything else. @return kExhausted where there is no thread
  Status start();

  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address) override;
  Status submit(const std::shared_ptr<Segment>& segment, Bucket bucket) override;
  std::size_t poll(std::span<Completion> out) override { return book_->flight->poll(out); }
  int event_fd() const noexcept override { return book_->flight->event_fd(); }
  Status close(Deadline deadline) override { return book_->flight->close(deadline); }
  void abort() noexcept override;

 private:
  /// A server that segments of this lane come from; nearly always one.
  struct Link {
    Server server;
    std::unique_ptr<Connection> connection;
    bool blocked = false;           ///< the last request was not taken
    Clock::time_point heard{};      ///< of anything
    Clock::time_point progress{};   ///< of a bucket
    Clock::time_point reopen_at{};  ///< unset: it is up
    Duration backoff{};
  };

  void run();
  void wait(std::vector<zmq::pollitem_t>& items);
  Link& link_to(const SegmentAddress& address);
  bool open(Link& link);
  void note_changes(Link& link, Clock::time_point now);
  void lost(Link& link);
  void reopen(Link& link);
  void take_replies(Link& link, Clock::time_point now);
  void take(Link& link, Connection::Reply reply, Clock::time_point now);
  void take_bad_news(std::uint64_t id, const Status& what, Clock::time_point now);
  void place(std::uint64_t id, OpenBucket open, Connection::Reply reply);
  void tell(Clock::time_point now);
  void ask(Clock::time_point now);
  void look_at_time(Clock::time_point now);
  void drop_unused_links();
  void part();

  zmq::context_t& context_;
  const LaneOptions lane_;
  SharedCounters& counters_;
  const std::shared_ptr<LaneBook> book_;
  CopyPool pool_;
  const std::string identity_;
  std::vector<std::unique_ptr<Link>> links_;  ///< the thread's
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace weightcast::transport
