#include "publisher/control_loop.hpp"

#include <pthread.h>

#include <algorithm>

#include "base/failpoint.hpp"
#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "protocol/wire.hpp"
#include "staging/sweep.hpp"
#include "stream/wait.hpp"

namespace weightcast::publisher {
namespace {

constexpr protocol::Peer kLocalPeer = 0;  ///< rank 0's own source, which needs no socket
constexpr auto kSeekPeriod = std::chrono::milliseconds(50);
constexpr auto kSweepPeriod = std::chrono::seconds(2);
constexpr auto kFarewell = std::chrono::milliseconds(100);  ///< for the last messages to go out
constexpr int kMaxMessagesATurn = 256;  ///< so that timers are looked at under a flood

/// ROUTER makes routing ids of five bytes; longer ones are not ours.
std::optional<protocol::Peer> peer_of(const std::string& routing_id) {
  if (routing_id.empty() || routing_id.size() > 7) return std::nullopt;
  protocol::Peer peer = 0;
  for (char c : routing_id) peer = peer << 8 | static_cast<unsigned char>(c);
  return peer << 8 | routing_id.size();
}

std::string routing_id_of(protocol::Peer peer) {
  std::string id(peer & 0xff, '\0');
  for (std::size_t i = id.size(); i-- > 0;) {
    peer >>= 8;
    id[i] = static_cast<char>(peer & 0xff);
  }
  return id;
}

protocol::SourceConfig source_config(const PublisherOptions& options, std::uint64_t incarnation) {
  protocol::SourceConfig config;
  config.rank = options.rank;
  config.world_size = options.world_size;
  config.launch = options.launch;
  config.policy = options.policy;
  config.incarnation = incarnation;
  config.max_coalesced = options.max_coalesced;
  config.heartbeat = options.heartbeat;
  config.member_timeout = options.member_timeout;
  return config;
}

Run newest_run_in(const protocol::Message& message) {
  const auto* hello = std::get_if<protocol::Hello>(&message.body);
  return hello == nullptr ? message.run : std::max(message.run, hello->highest_run);
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

ControlLoop::ControlLoop(const PublisherOptions& options, std::string place,
                         std::uint64_t incarnation, protocol::SlotLocks& locks)
    : options_(options),
      place_(std::move(place)),
      book_(options.slots, locks),
      source_(source_config(options, incarnation), book_, Clock::now()) {}

Result<std::unique_ptr<ControlLoop>> ControlLoop::start(const PublisherOptions& options,
                                                        const std::string& place,
                                                        std::uint64_t incarnation,
                                                        protocol::SlotLocks& locks) {
  std::unique_ptr<ControlLoop> loop(new ControlLoop(options, place, incarnation, locks));
  if (options.rank == 0) {
    if (Status status = loop->become_coordinator(); !status) return status;
    loop->source_.tick(Clock::now());
    loop->exchange();  // its own source has joined when this returns
  }
  const base::ScopedSignalMask mask;
  try {
    loop->thread_ = std::thread([raw = loop.get()] { raw->run(); });
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot start the control thread: ") + error.what());
  }
  return loop;
}

Status ControlLoop::become_coordinator() {
  auto rendezvous = stream::Rendezvous::claim(place_, options_.takeover);
  if (!rendezvous) return rendezvous.status();
  auto server = stream::ControlServer::bind((*rendezvous)->endpoint());
  if (!server) return server.status();
  if (Status status = (*rendezvous)->announce(protocol::kProtocolVersion); !status) return status;
  protocol::CoordinatorConfig config;
  config.run = (*rendezvous)->run();
  config.world_size = options_.world_size;
  config.launch = options_.launch;
  config.policy = options_.policy;
  config.heartbeat = options_.heartbeat;
  config.member_timeout = options_.member_timeout;
  config.attempt_timeout = options_.attempt_timeout;
  config.compare_every = options_.compare_every;
  config.min_receivers = options_.min_receivers;
  rendezvous_ = std::move(*rendezvous);
  server_ = std::move(*server);
  coordinator_.emplace(std::move(config), Clock::now());
  return Status::ok();
}

ControlLoop::~ControlLoop() {
  stop_ = true;
  waker_.wake();
  if (thread_.joinable()) thread_.join();
}

bool ControlLoop::wait(Deadline deadline,
                       const std::function<bool(const protocol::Source&)>& until) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] { return until(source_); });
}

CoordinatorView ControlLoop::view() const {
  const std::lock_guard lock(mutex_);
  return view_;
}

void ControlLoop::run() {
  pthread_setname_np(pthread_self(), "wc-control");
  while (!stop_) {
    try {
      turn();
    } catch (const std::exception& error) {
      base::log(LogLevel::kError, std::string("event=control_loop_failed why=\"") + error.what() + "\"");
      return;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    source_.leave(Clock::now());
  }
  if (coordinator_) coordinator_->leave();
  exchange();
  if (client_) client_->close(kFarewell);
  if (server_) server_->close(kFarewell);
}

std::chrono::milliseconds ControlLoop::wait_time(Clock::time_point now) const {
  Clock::time_point at = now + options_.heartbeat;
  {
    const std::lock_guard lock(mutex_);
    at = std::min(at, source_.next_wakeup());
  }
  if (coordinator_) at = std::min(at, coordinator_->next_wakeup());
  return std::clamp(std::chrono::ceil<std::chrono::milliseconds>(at - now),
                    std::chrono::milliseconds(0), std::chrono::milliseconds(1000));
}

void ControlLoop::turn() {
  stream::wait_for_work(waker_, server_.get(), client_.get(), wait_time(Clock::now()));
  // What came while this thread (or the whole process) did not run is heard before the clock is
  // looked at: nobody is called silent whose messages lie here.
  pump_server();
  pump_client();
  const auto now = Clock::now();
  if (coordinator_) coordinator_->tick(now);
  {
    const std::lock_guard lock(mutex_);
    source_.tick(now);
  }
  exchange();
  look_for_successor(now);
  seek_coordinator(now);
  sweep_now_and_then(now);
}

void ControlLoop::pump_server() {
  if (!server_) return;
  for (int i = 0; i < kMaxMessagesATurn; ++i) {
    auto received = server_->receive();
    if (!received) return;
    const auto peer = peer_of(received->peer);
    if (!peer) {
      ++refused_;
      continue;
    }
    auto message = protocol::decode(bytes_of(received->bytes));
    if (message) {
      // Who holds the meeting place is the newest run; a peer's word alone stops no trainer.
      const Run named = newest_run_in(*message);
      if (named <= coordinator_->run() || rendezvous_->superseded()) {
        coordinator_->receive(Clock::now(), *peer, *message);
        continue;
      }
      refuse(received->peer, message->member, protocol::Refusal::kSuperseded,
             "run " + to_string(coordinator_->run()) + " publishes in " + place_ +
                 ", but this member has obeyed the newer run " + to_string(named) +
                 "; start the member again, or give it the directory of that run");
      continue;
    }
    base::log(LogLevel::kDebug,
              "event=message_refused why=\"" + message.status().to_string() + "\"");
    auto member = protocol::peek_member(bytes_of(received->bytes));
    if (message.status().code() == Code::kMismatch && member) {
      refuse(received->peer, *member, protocol::Refusal::kProtocol, message.status().message());
    } else {
      ++refused_;
    }
  }
}

void ControlLoop::refuse(const std::string& peer, const protocol::Member& member,
                         protocol::Refusal reason, std::string why) {
  ++refused_;
  const protocol::Message answer{coordinator_->run(), member,
                                 protocol::Refused{reason, std::move(why)}};
  [[maybe_unused]] const Status sent =
      server_->send(peer, std::span<const char>(protocol::encode(answer)));
}

void ControlLoop::pump_client() {
  if (!client_) return;
  for (int i = 0; i < kMaxMessagesATurn; ++i) {
    auto received = client_->receive();
    if (!received) return;
    auto message = protocol::decode(bytes_of(received->bytes));
    if (!message) {
      ++refused_;
      continue;
    }
    const std::lock_guard lock(mutex_);
    source_.receive(Clock::now(), *message);
  }
}

void ControlLoop::exchange() {
  // Coordinator and rank 0's source answer each other here until both are silent.
  for (;;) {
    std::vector<protocol::Message> from_source;
    {
      const std::lock_guard lock(mutex_);
      from_source = source_.take_outbox();
    }
    std::vector<protocol::Outgoing> from_coordinator;
    if (coordinator_) {
      for (const auto& message : from_source) {
        coordinator_->receive(Clock::now(), kLocalPeer, message);
      }
      from_coordinator = coordinator_->take_outbox();
    } else {
      send_from_source(std::move(from_source));
      break;
    }
    if (from_source.empty() && from_coordinator.empty()) break;
    send_from_coordinator(std::move(from_coordinator));
  }
  {
    const std::lock_guard lock(mutex_);
    if (coordinator_) {
      view_ = {coordinator_->receivers(), coordinator_->counters(), coordinator_->superseded()};
    }
  }
  changed_.notify_all();
  pass_failpoints();
  if (!coordinator_) return;
  for (const auto& note : coordinator_->take_notes()) {
    base::log(note.warning ? LogLevel::kWarn : LogLevel::kDebug, note.text);
  }
}

void ControlLoop::pass_failpoints() {
  std::uint64_t published = 0;
  std::uint64_t committed = 0;
  {
    const std::lock_guard lock(mutex_);
    published = source_.published();
    committed = source_.committed();
  }
  // Once for each version: receivers have been asked to stage it, may serve it.
  if (std::exchange(seen_published_, published) != published) {
    base::failpoint("trainer.published", published);
  }
  if (std::exchange(seen_committed_, committed) != committed) {
    base::failpoint("trainer.committed", committed);
  }
}

void ControlLoop::send_from_coordinator(std::vector<protocol::Outgoing> messages) {
  for (const auto& out : messages) {
    if (out.peer == kLocalPeer) {
      const std::lock_guard lock(mutex_);
      source_.receive(Clock::now(), out.message);
      continue;
    }
    if (!server_) continue;
    // A peer that is gone or does not read is found out by its silence.
    [[maybe_unused]] const Status sent = server_->send(
        routing_id_of(out.peer), std::span<const char>(protocol::encode(out.message)));
  }
}

void ControlLoop::send_from_source(std::vector<protocol::Message> messages) {
  if (!client_) return;  // said again once there is a connection
  for (const auto& message : messages) {
    [[maybe_unused]] const Status sent =
        client_->send(std::span<const char>(protocol::encode(message)));
  }
}

void ControlLoop::seek_coordinator(Clock::time_point now) {
  if (coordinator_ || now < next_seek_) return;
  bool lost = false;
  {
    const std::lock_guard lock(mutex_);
    if (source_.joined()) return;
    lost = source_.take_reconnect();
  }
  next_seek_ = now + kSeekPeriod;
  if (lost) {
    client_.reset();
    connected_to_.clear();
  }
  auto announcement = stream::read_announcement(place_);
  if (!announcement || announcement->endpoint == connected_to_) return;
  auto client = stream::ControlClient::connect(announcement->endpoint);
  if (!client) {
    base::log(LogLevel::kWarn, "event=connect_failed why=\"" + client.status().to_string() + "\"");
    return;
  }
  client_ = std::move(*client);
  connected_to_ = announcement->endpoint;
}

void ControlLoop::look_for_successor(Clock::time_point now) {
  if (!server_ || now < next_successor_look_) return;
  next_successor_look_ = now + options_.heartbeat;
  if (!rendezvous_->superseded()) return;
  // Members must not stay with a run that publishes no more: they are told to look for the next
  // one, and find nobody here.
  coordinator_->leave();
  exchange();
  server_->close(kFarewell);
  server_.reset();
  // The successor announces itself once it listens; until then it is only known that it came.
  Run successor = coordinator_->run();
  ++successor.started_us;
  if (const auto announcement = stream::read_announcement(place_)) {
    successor = std::max(successor, announcement->run);
  }
  protocol::Member own;
  {
    const std::lock_guard lock(mutex_);
    own = source_.member();
  }
  coordinator_->receive(now, kLocalPeer, {successor, own, protocol::Bye{}});
  exchange();
}

void ControlLoop::sweep_now_and_then(Clock::time_point now) {
  // Engines may still serve from a dead run; what they let go is removed here (or by them).
  if (!sweeping_ || now < next_sweep_) return;
  next_sweep_ = now + kSweepPeriod;
  sweeping_ = staging::sweep(options_.job).held != 0;
}

}  // namespace weightcast::publisher
